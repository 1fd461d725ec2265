"""What a session does with its machine while it is idle, and how it gets it back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Final, Literal

from sandboxkit.channel.activity import quietly
from sandboxkit.concurrency import cancel_and_wait, run_to_end, seen
from sandboxkit.errors import (
    AsleepError,
    ConnectionLostError,
    SandboxClosedError,
    SandboxDiedError,
    SandboxError,
    SandboxNotFoundError,
)
from sandboxkit.lifecycle import DESTROY_S
from sandboxkit.session.images import Images

if TYPE_CHECKING:
    from sandboxkit.channel.activity import Sleeper
    from sandboxkit.sandbox import Sandbox
    from sandboxkit.session.beginning import Wanted
    from sandboxkit.session.body import Body
    from sandboxkit.session.dialogue import Dialogue
    from sandboxkit.session.states import StateMachine
    from sandboxkit.spec import NetworkPolicy

log = logging.getLogger(__name__)

SLEEP_S: Final = 600.0
"""Seconds in which a session falls asleep: a last save, a snapshot, an end."""

Asleep = Literal["pause", "snapshot", "save"]

_GONE: Final = (SandboxNotFoundError, SandboxDiedError)


class Idling:
    """Puts a session's machine to sleep by `SandboxSpec.on_idle`, and wakes it.

    Args:
        wanted: What the session was made with.
        body: Its machine.
        dialogue: Its agent.
        states: Its state.

    Attributes:
        asleep: How it sleeps; None while it is awake.
        images: What it sleeps as, with `snapshot`.
    """

    def __init__(
        self, wanted: Wanted, body: Body, dialogue: Dialogue, states: StateMachine
    ) -> None:
        self._wanted, self._body = wanted, body
        self._dialogue, self._states = dialogue, states
        self._one = asyncio.Lock()  # falling asleep, or waking
        self._callers = 0  # who wait for the machine
        self._watching: asyncio.Task[None] | None = None
        self._waking: asyncio.Task[None] | None = None
        self._policy: NetworkPolicy | None = None
        self.asleep: Asleep | None = None
        self.images = Images(wanted)

    def start(self) -> None:
        """From now on it falls asleep when it is idle, if the spec says so."""
        spec = self._wanted.made
        if spec is not None and spec.on_idle != "destroy":
            self._dialogue.awake = self.awake
            self._watch(spec.on_idle)

    def _watch(self, how: Asleep) -> None:
        self._watching = asyncio.create_task(self._until_asleep(how), name="sandboxkit-idling")

    def check(self) -> None:
        """Refuse the use of a machine that there is not.

        Raises:
            AsleepError: There is none.
        """
        if self.asleep in {"snapshot", "save"}:
            raise AsleepError(
                "The session is asleep, and has no machine now: `await session.wake()` makes "
                "one, and so does its next prompt."
            )

    # falling asleep

    async def _until_asleep(self, how: Asleep) -> None:
        sandbox = self._body.there
        while self.asleep is None:
            sleeper = None
            try:
                sleeper = sandbox.activity.sleeper()
                await sleeper.until_idle()
                await self._fall_asleep(sleeper, how)
            except ConnectionLostError:
                if sandbox.failure is not None:
                    return
            except SandboxError as error:
                if sandbox.failure is None and not isinstance(error, SandboxClosedError):
                    log.warning("The session cannot be put to sleep when it is idle: %s", error)
                return  # whoever uses it is told
            except TimeoutError:
                log.warning("The session did not fall asleep within %g s, and stays.", SLEEP_S)
            finally:
                if sleeper is not None:
                    sleeper.close()

    async def _fall_asleep(self, sleeper: Sleeper, how: Asleep) -> None:
        async with self._one:
            if self._wanted_now() or not self._states.can("idle"):
                return
            self._states.to("idle")
            await run_to_end(self._sleep(sleeper, how), deadline_s=SLEEP_S)

    def _wanted_now(self) -> bool:
        return self._dialogue.turning or self._callers > 0

    async def _sleep(self, sleeper: Sleeper, how: Asleep) -> None:
        keeping = self._body.keeping
        asleep = self._pause if how == "pause" else self._put_away
        try:
            with quietly():
                done = await asleep(sleeper, how)
        except (SandboxError, TimeoutError) as error:
            log.warning("The session could not %s when it was idle, and stays: %s", how, error)
            done = False
        except BaseException:
            self._states.to("ready")
            raise
        if not done and keeping is not None:
            keeping.started()
        self._states.to("ready" if not done else "paused" if how == "pause" else "saved")

    async def _pause(self, sleeper: Sleeper, how: Asleep) -> bool:
        sandbox, keeping = self._body.there, self._body.keeping
        if keeping is not None:
            await keeping.rest()
        if not await self._still(sleeper):
            return False
        sandbox.activity.gate(self._on_use)  # nothing has been awaited since it was still
        try:
            await sandbox.pause()
        except BaseException:
            sandbox.activity.gate(None)
            raise
        self._body.clock.stop()
        self.asleep = how
        return True

    async def _put_away(self, sleeper: Sleeper, how: Asleep) -> bool:
        sandbox, keeping = self._body.there, self._body.keeping
        if keeping is not None:
            await keeping.save()  # if this fails, the agent has not noticed
        if not await self._still(sleeper):
            return False
        await self._dialogue.rest()
        if keeping is not None:
            await keeping.rest()
        if how == "snapshot":
            await self.images.make(sandbox)
        if not await self._still(sleeper):
            await self.images.forget()
            return False
        self._policy = sandbox.network.policy
        self._body.clock.stop()
        self.asleep = how
        try:
            await sandbox.aclose()
        except (SandboxError, TimeoutError) as error:
            log.warning("The sandbox %s is left to its lease: %s", sandbox.id, error)
        if keeping is not None and how == "save":
            await keeping.close(None)
        return True

    async def _still(self, sleeper: Sleeper) -> bool:
        return await sleeper.still() and not self._wanted_now()

    # waking

    def _on_use(self) -> None:
        self._begin_waking()

    async def awake(self) -> None:
        """Return when there is a machine that runs. Cancelling leaves the waking to itself.

        Raises:
            SandboxError: It could not be woken; it can be tried again.
        """
        if self.asleep is None and not self._one.locked():
            return
        self._callers += 1
        try:
            await asyncio.shield(self._begin_waking())
        finally:
            self._callers -= 1

    def _begin_waking(self) -> asyncio.Task[None]:
        if self._waking is None or self._waking.done():
            self._waking = asyncio.create_task(self._wake(), name="sandboxkit-waking")
            self._waking.add_done_callback(seen)  # who waited was told
        return self._waking

    async def _wake(self) -> None:
        async with self._one:
            how = self.asleep
            if how is None:
                return
            if how == "pause" and not await self._resumed():
                how = "save"
            if how != "pause":
                await self._made_again(how)
            self.asleep = None
            spec = self._wanted.made
            self._states.to("ready", "woken")
            if spec is not None and spec.on_idle != "destroy":
                self._watch(spec.on_idle)

    async def _resumed(self) -> bool:
        """Let a paused machine go on; whether it was there.

        Raises:
            SandboxError: It does not go on; or it is gone, and there is no store.
        """
        sandbox, keeping = self._body.there, self._body.keeping
        try:
            sandbox.activity.gate(None)
            await sandbox.resume()
            if sandbox.failure is not None:
                raise sandbox.failure
        except _GONE as error:
            if keeping is None:
                self._states.fail(error)
                raise
            log.warning("The paused sandbox is gone, and another one is made: %s", error)
            await self._dialogue.aclose()
            with contextlib.suppress(SandboxError):
                await sandbox.aclose()
            await keeping.close(None)
            self._states.to("saved", str(error))
            self.asleep = "save"
            return False
        except BaseException:
            with contextlib.suppress(SandboxError):
                sandbox.activity.gate(self._on_use)
            raise
        self._body.clock.start()
        if keeping is not None:
            keeping.started()
        return True

    async def _made_again(self, how: Asleep) -> None:
        before = self._body.there
        self._states.to("creating", "woken")
        try:
            if how == "snapshot" and (image := self.images.last) is not None:
                await self._body.move(image.name, image.backend)
            else:
                await self._body.hydrate()
            sandbox = self._body.there
            if self._policy is not None and self._policy != sandbox.network.policy:
                await sandbox.network.set(self._policy)  # it may have been narrowed since
        except BaseException as error:
            await run_to_end(self._unmade(before), deadline_s=DESTROY_S)
            self._states.fail(error)
            raise
        if how == "snapshot":
            await self.images.forget()

    async def _unmade(self, before: Sandbox) -> None:
        sandbox, keeping = self._body.there, self._body.keeping
        self._body.clock.stop()
        if sandbox is not before:
            with contextlib.suppress(SandboxError, TimeoutError):
                await sandbox.aclose()
        if keeping is not None:
            with contextlib.suppress(SandboxError):
                await keeping.rest()

    # the end

    async def aclose(self) -> None:
        """End what is under way: falling asleep is finished, waking is given up. Never raises."""
        await cancel_and_wait(self._watching)
        await cancel_and_wait(self._waking)
