"""A sandbox: a machine to run commands in, the same on every backend."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any, ClassVar, Literal

from sandboxkit.channel.activity import Activity
from sandboxkit.channel.adoption import ProcessInfo, adopt, list_processes
from sandboxkit.channel.client import GuestClient
from sandboxkit.channel.execution import OUTPUT_LIMIT, ExecResult, check_run, execute
from sandboxkit.channel.fallback import Fallback, refuse
from sandboxkit.channel.fallback_files import FallbackFiles
from sandboxkit.channel.files import Files
from sandboxkit.channel.process import Process, start
from sandboxkit.channel.requests import request_for, spawn_options
from sandboxkit.channel.tunnels import Ports
from sandboxkit.concurrency import run_to_end
from sandboxkit.errors import SandboxClosedError, SandboxError
from sandboxkit.failover import OneProvider, create_on
from sandboxkit.gateway.secrets import Secret
from sandboxkit.gateway.settings import Gateway
from sandboxkit.happenings import Happenings
from sandboxkit.health import DEADLINE_S, Health, nothing_there, sandbox_health
from sandboxkit.lasting import check_extend, extend
from sandboxkit.lifecycle import DESTROY_S, Opening, check_can, close, snapshot_name
from sandboxkit.limits import WAIT_S, Patience
from sandboxkit.making import Parts, make, take_up
from sandboxkit.network import Outside
from sandboxkit.progress import Listener
from sandboxkit.providers.base import Exposed, SandboxInfo, SandboxProvider
from sandboxkit.spec import NetworkPolicy, SandboxSpec

_FREEZE_S = 180.0  # E2B takes about 4 s for each GiB of memory


class Sandbox:
    """A living sandbox. Made by `create` or `attach`, not by its constructor.

    Attributes:
        id: The backend's id, for `attach`.
        files: Its files.
        ports: Its ports.
        activity: What keeps it from being idle.
        network: Its network: the policy, which can be changed, and what it has asked for.
        events: What happens to it, such as a connection that broke.
        ended: Set when this host has nothing more to do with it: destroyed, or let go of.
        is_shared: Whether others work in the same machine, who can see the command lines in it.
    """

    is_shared: ClassVar[bool] = False

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._provider = parts.provider
        self._handle = parts.handle
        self._channel = channel = parts.channel
        self._info = info = parts.info
        self._keeper = parts.keeper
        self.network = parts.network
        self._created = parts.created
        self._owns_provider = parts.owns_provider
        self._closed = False
        self.ended = asyncio.Event()
        self.events = Happenings()
        if isinstance(channel, GuestClient):
            channel.happenings.listen(self.events.pass_on)
        self.id = info.id
        self.files = (
            FallbackFiles(channel) if isinstance(channel, Fallback) else Files(self._client)
        )
        self.ports = Ports(self._client, self._expose)
        self.activity = Activity(self._client)

    def __repr__(self) -> str:
        state = "closed" if self._closed else self._info.state
        return f"<Sandbox {self._info.provider} {self.id} {state}>"

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            said = f"sandbox {self.id} was never closed; it ends with its lease"
            warnings.warn(said, ResourceWarning, source=self, stacklevel=2)

    @classmethod
    def create(
        cls,
        provider: OneProvider | Sequence[OneProvider],
        *,
        spec: SandboxSpec | None = None,
        on_progress: Listener | None = None,
        wait_s: float = WAIT_S,
        secrets: Sequence[Secret] = (),
        gateway: Gateway | None = None,
        **fields: Any,
    ) -> Opening[Sandbox]:
        """Create a sandbox: `await` it, or leave it to `async with`, which destroys it.

        Args:
            provider: The backend's name, or an object; or a list of them, of which the
                first is taken that has room and answers (see `failover`).
            spec: What it shall be; None is all defaults.
            on_progress: Called with each `Progress` of a slow step (an image pull).
            wait_s: Seconds to wait while the backend has no room, or limits the rate.
            secrets: Values that go to their hosts only, and are never in the sandbox. The
                policy must allow these hosts. They are no part of the spec, which is printed.
            gateway: How the gateway reaches the world, for tests and unusual networks.
            **fields: Single fields of `SandboxSpec` and `Resources`, such as
                `image="python:3.12-slim"`, `cpu=2`, `memory_gib=4`, `network="open"`.

        Raises:
            InvalidSpecError: A field is unknown or its value wrong.
            UnsupportedError: The backend cannot do what is demanded.
            ImportError: A list of hosts, or secrets, need a package that is not installed.
            ProviderNotFoundError: There is no such backend; see also the other
                errors of `providers.registry`.
            SandboxError: The backend failed. Nothing is left behind.

        Cancelling removes what was created so far before the cancellation goes on,
        within 120 s at the most.
        """
        wanted = SandboxSpec.build(spec, **fields)
        outside = Outside(secrets, gateway)
        outside.check(wanted.network, wanted.env)

        async def create(chosen: OneProvider, spec: SandboxSpec, patience: Patience) -> Sandbox:
            return await cls._of(make(outside, chosen, spec, patience))

        return Opening(create_on(provider, wanted, create, on_progress, wait_s=wait_s))

    @classmethod
    def attach(
        cls,
        provider: str | SandboxProvider,
        sandbox_id: str,
        *,
        network: NetworkPolicy | None = None,
        secrets: Sequence[Secret] = (),
        gateway: Gateway | None = None,
    ) -> Opening[Sandbox]:
        """Take up a sandbox that lives. Leaving the `async with` block lets go of it.

        Args:
            provider: The backend.
            sandbox_id: Its id.
            network: The policy that this host keeps for it. The list of another host does
                not go on by itself: without one there is no way out (`info.differences`).
            secrets: As for `create`; so is `gateway`.
            gateway: See `create`.

        Raises:
            SandboxNotFoundError: There is none of this id, or it is not sandboxkit's.
            UnsupportedError: The policy asks for a network that it does not have, or would
                take away the one that it has.
        """
        outside = Outside(secrets, gateway, network)
        return Opening(cls._of(take_up(provider, sandbox_id, outside)))

    @classmethod
    async def _of(cls, parts: Awaitable[Parts]) -> Sandbox:
        return cls(await parts)

    @property
    def info(self) -> SandboxInfo:
        """What is known of it; `effective` and `differences` say what really holds."""
        info, channel = self.network.shown(self._info), self._channel
        ends_at = channel.term.ends_at if isinstance(channel, GuestClient) else None
        return replace(info, expires_at=ends_at)

    @property
    def failure(self) -> SandboxError | None:
        """Why nothing more can be done with it, such as its death; None while it lives."""
        return self._channel.failure if isinstance(self._channel, GuestClient) else None

    @property
    def home(self) -> str:
        """The home directory of the sandbox's user."""
        return str(self._client().welcome.get("home"))

    @property
    def workdir(self) -> str:
        """The directory where commands start and relative paths lead from."""
        return str(self._client().welcome.get("workdir"))

    async def health(self, *, deadline_s: float = DEADLINE_S) -> Health:
        """How the machine and the guest in it are: `print(await sandbox.health())`.

        It raises nothing because something is ill, is no activity, and wakes nothing.

        Args:
            deadline_s: Seconds for each of the two, both at once; what has not answered
                by then is ill.
        """
        if self._closed:
            return nothing_there("the sandbox has been closed")
        return await sandbox_health(
            self._provider, self._info, self._channel, deadline_s=deadline_s
        )

    def hidden(self) -> dict[str, str]:
        """Values that no log may show, by name: of its environment and its secrets."""
        channel, found = self._channel, self.network.hidden()
        return {**channel.env, **found} if isinstance(channel, GuestClient) else found

    # commands

    async def exec(
        self,
        argv: Sequence[str],
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bytes | None = None,
        timeout_s: float | None = None,
        user: str | None = None,
        check: bool = False,
        max_output_bytes: int = OUTPUT_LIMIT,
    ) -> ExecResult:
        """Run a command to its end.

        It is started at most once, whatever happens to the connection. Cancelling
        ends it and all that it started.

        Args:
            argv: The program and its arguments: a list, never joined.
            cwd: Where it starts; relative to the work directory, which is the default.
            env: Variables added to those of the sandbox.
            stdin: Its input; None is an empty one.
            timeout_s: Seconds after which it is ended, with all that it started:
                TERM, 2 s, KILL. What it wrote until then is kept.
            user: Who it runs as; None is the sandbox's user.
            check: Whether a failure raises, as `ExecResult.check` does.
            max_output_bytes: Bytes of each stream to keep: the first and the last half.

        Raises:
            ExecStartError: It could not be started: no such program, bad `cwd` or `user`.
            InvalidSpecError: An argument is not possible.
            SandboxError: The sandbox, or the connection, was lost; no exit code is invented.
        """
        request = request_for(argv, cwd=cwd, env=self.network.added_to(env), user=self._who(user))
        check_run(stdin, timeout_s, max_output_bytes)
        channel = self._open_channel()
        run = channel.execute if isinstance(channel, Fallback) else partial(execute, channel)
        result = await run(
            request, stdin=stdin, timeout_s=timeout_s, max_output_bytes=max_output_bytes
        )
        return result.check() if check else result

    async def sh(self, script: str, **options: Any) -> ExecResult:
        """Run a line or a script of `/bin/sh`; the options and errors are those of `exec`."""
        return await self.exec(["/bin/sh", "-c", script], **options)

    async def spawn(
        self,
        argv: Sequence[str],
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: Literal["pipe"] | None = None,
        pty: bool | tuple[int, int] = False,
        user: str | None = None,
        detach: bool | Literal["lossless"] = False,
        passive: bool = False,
        note: str = "",
        acknowledge: Literal["by_hand"] | None = None,
    ) -> Process:
        """Start a command and return while it runs.

        Args:
            argv: As for `exec`; so are `cwd`, `env` and `user`.
            cwd: See `exec`.
            env: See `exec`.
            stdin: `PIPE` to write to it; None is an empty input.
            pty: Whether it gets a terminal (24 x 80, or the rows and columns given);
                its output is then all on `stdout`.
            user: See `exec`.
            detach: Whether it survives this host: it can be taken up again by
                `process(id)` while the sandbox lives. Without a host, the last
                512 KiB of each output stream are kept; with "lossless" nothing of its
                stdout is lost, for which it waits when it is 1 MiB ahead of its hosts.
            passive: Whether it is no activity while it runs, as an agent that waits; see
                `activity`.
            note: Kept with it in the sandbox, out of its own reach, for the next host:
                `Process.note`; 16,384 characters at most.
            acknowledge: "by_hand" if stdout is to be kept in the sandbox until
                `stdout.acknowledge(...)`; None is when it has been read.

        Raises:
            ExecStartError: It could not be started.
            UnsupportedError: The image has no Python, and so no guest.
        """
        request = request_for(argv, cwd=cwd, env=self.network.added_to(env), user=self._who(user))
        request |= spawn_options(stdin=stdin, pty=pty, detach=detach, passive=passive, note=note)
        return await start(self._client(), request, argv, None, by_hand=acknowledge == "by_hand")

    async def process(
        self, process_id: str, *, acknowledge: Literal["by_hand"] | None = None
    ) -> Process:
        """Take up a detached process that another host has left, or has died with.

        Its output continues where that host had acknowledged it. A host is taken for dead when
        its connection has been lost for 3 s, or it has said nothing for 30 s; if it comes
        back, its process is lost to it (`ProcessTakenError`). Its network is this host's now.

        Args:
            process_id: The process.
            acknowledge: As for `spawn`.

        Raises:
            ExecStartError: There is no detached process of this id; code `not_found`.
            ProcessHeldError: A host that lives has it. To know this may take 10 s.
        """
        by_hand = acknowledge == "by_hand"
        return await adopt(self._client(), process_id, self.network.inherit, by_hand=by_hand)

    async def processes(self) -> list[ProcessInfo]:
        """The processes that were started here and are not forgotten, by whatever host."""
        return await list_processes(self._client())

    # time and copies

    async def pause(self) -> None:
        """Freeze the sandbox: its processes and memory wait, and cost what the backend says.

        What is asked of it meanwhile waits for `resume`. Cancellation waits until it is done.
        It is not ended by its lease while it is paused; `destroy` ends it.

        Raises:
            UnsupportedError: The backend cannot.
        """
        check_can("pause", self._provider, self.id)
        await run_to_end(self._pause(self._open_channel()), deadline_s=_FREEZE_S)

    async def _pause(self, channel: GuestClient | Fallback) -> None:
        await self._keeper.rest()
        if isinstance(channel, GuestClient):
            await channel.suspend(keep_s=_FREEZE_S)
        try:
            await self._handle.pause()
        except BaseException:
            await self._go_on(channel)
            raise
        self._info = replace(self._info, state="paused")
        self.events.tell("paused")
        self._keeper.place.release()

    async def resume(self) -> None:
        """Let a paused sandbox go on; for one that runs, this does nothing.

        Raises:
            SandboxNotFoundError: It is gone.
        """
        channel = self._open_channel()
        if self._info.state == "paused":
            await run_to_end(self._resume(channel), deadline_s=_FREEZE_S)

    async def _resume(self, channel: GuestClient | Fallback) -> None:
        await self._handle.resume()
        await self._go_on(channel)

    async def _go_on(self, channel: GuestClient | Fallback) -> None:
        self._info = replace(self._info, state="running")
        self._keeper.place.retake()
        self._keeper.start()
        if isinstance(channel, GuestClient):
            await channel.resume()
        self.events.tell("resumed")

    async def snapshot(self, name: str | None = None) -> str:
        """Keep the sandbox's files as an image at the backend, to start others from.

        It stays, and may cost, until `provider.remove_snapshot(image)`.

        Args:
            name: What to call it: 1 to 63 letters, digits and `-`; None makes one up.

        Returns:
            What to give as `image=` to start from it, on this backend.

        Raises:
            UnsupportedError: The backend has no snapshots.
        """
        check_can("snapshot", self._provider, self.id)
        self._open_channel()
        return await self._handle.snapshot(snapshot_name(name))

    async def _expose(self, port: int) -> Exposed:
        check_can("expose", self._provider, self.id)
        self._open_channel()
        return await self._handle.expose(port)

    async def extend(self, seconds: float) -> datetime | None:
        """Put the end of its life-time off, by so many seconds.

        An idle time-out and the lease are not touched. Other hosts see the new end within
        their next sign of life, 10 s at the most.

        Returns:
            The new end, aware, UTC, which `info.expires_at` shows as well; None for a
            sandbox without a `lifetime_s`, which has no end to be put off.

        Raises:
            InvalidSpecError: `seconds` is not a number above 0.
            UnsupportedError: The backend ends it at a time that cannot be moved (Modal), or
                the image has no Python, and so no guest. Nothing has changed.
            SandboxError: The backend or the guest did not answer.
        """
        check_extend(self._provider, self.id, seconds)
        ends_at = await extend(self._client(), self._keeper, seconds)
        if ends_at is not None:
            self.events.tell("extended", f"until {ends_at.isoformat(timespec='seconds')}")
        return ends_at

    # the end

    async def detach(self, *, keep_s: float) -> None:
        """Let go of the sandbox, which lives on for `keep_s` seconds without any host.

        What was not spawned with `detach=True` ends. `attach` takes it up again.
        """
        await self._leave(keep_s=keep_s)

    async def destroy(self) -> None:
        """End the sandbox and remove all that belongs to it.

        Idempotent; cancellation waits until it is done, within 60 s.

        Raises:
            ProviderUnavailableError: The backend does not answer; the sandbox ends
                with its lease.
        """
        if self._closed:
            return
        self._closed = True
        await run_to_end(self._destroy(), deadline_s=DESTROY_S)

    async def aclose(self) -> None:
        """Destroy the sandbox if it was created here; let go of it if it was attached."""
        if self._created:
            await self.destroy()
        else:
            await self._leave(keep_s=None)

    async def _destroy(self) -> None:
        try:
            await self._keeper.stop()
            await self.network.aclose()
            await close(self._channel, say_bye=False, keep_s=None)
            await self._keeper.destroy()
            self.events.tell("destroyed")
        finally:
            await self._release()

    async def _leave(self, *, keep_s: float | None) -> None:
        if self._closed:
            return
        if keep_s is not None:
            self._client()
        self._closed = True
        await run_to_end(self._let_go(keep_s), deadline_s=DESTROY_S)

    async def _let_go(self, keep_s: float | None) -> None:
        try:
            await self._keeper.stop()
            await self.network.aclose()
            await close(self._channel, say_bye=True, keep_s=keep_s)
            if keep_s is not None:
                await self._keeper.leave(keep_s)
            self.events.tell("detached")
        finally:
            await self._release()

    async def _release(self) -> None:
        await self._keeper.release()
        try:
            await self._handle.aclose()
            if self._owns_provider:
                await self._provider.aclose()
        finally:
            self.ended.set()

    def _who(self, user: str | None) -> str | None:
        """Who a command runs as, where the caller has named this user, or none."""
        return user

    def _open_channel(self) -> GuestClient | Fallback:
        if self._closed:
            raise SandboxClosedError("the sandbox has been closed", sandbox_id=self.id)
        return self._channel

    def _client(self) -> GuestClient:
        channel = self._open_channel()
        if isinstance(channel, Fallback):
            refuse("this")
        return channel
