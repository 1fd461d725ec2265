"""What this host does in a sandbox, as far as its idle time-out is concerned."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

import anyio

from sandboxkit.errors import ProtocolError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandboxkit.channel.client import GuestClient
    from sandboxkit.channel.remote import RemoteChannel

_QUIET: ContextVar[bool] = ContextVar("sandboxkit_quiet", default=False)
_LEAST_S: Final = 0.01
_LONGEST_S: Final = 3600.0
_NEVER_S: Final = 60.0  # an idle time-out may still be given


@contextlib.contextmanager
def quietly() -> Generator[None]:
    """What is asked of sandboxes in the block, and in tasks begun there, is no activity."""
    token = _QUIET.set(True)
    try:
        yield
    finally:
        _QUIET.reset(token)


def noted(request: Mapping[str, Any]) -> dict[str, Any]:
    """A request with what the guest must know of it."""
    return {**request, "passive": True} if _QUIET.get() else dict(request)


class Activity:
    """What this host does in a sandbox, as `sandbox.activity`.

    A sandbox with an `idle_timeout_s` ends, or is put to sleep, when nothing has been done in
    it for so long. Activity is: a command that runs, a file operation, an open connection of a
    tunnel or of a declared port, and `hold`. Output is none; nor is what was spawned `passive`.

    Args:
        client: The way in.
    """

    def __init__(self, client: Callable[[], GuestClient]) -> None:
        self._client = client

    @contextlib.contextmanager
    def hold(self) -> Generator[None]:
        """Something is under way for the block, though no command need run: it is not idle.

        An agent on this host that waits for its model holds it; so does a turn of a `Session`.
        Where the host lets go of the sandbox, or dies, in the block, what it has spawned with
        `passive` and `detach` counts as activity from then on, until it is taken up or ends.

        Raises:
            SandboxClosedError: The sandbox has been closed.
        """
        try:
            channel = self._client().channel({"op": "hold"})
        except UnsupportedError:  # no guest, and so no idle time-out
            yield
            return
        try:
            yield
        finally:
            channel.close()

    def gate(self, on_use: Callable[[], None] | None) -> None:
        """Have what is asked from now on wait for the next connection, and tell `on_use` of it.

        Args:
            on_use: Whom to tell; None opens the gate, before the sandbox goes on.
        """
        self._client().on_use = on_use

    def sleeper(self) -> Sleeper:
        """Take it upon this host to put the sandbox to sleep, which then does not end by itself.

        Raises:
            UnsupportedError: It has no guest.
            SandboxError: It is closed, or lost.
        """
        return Sleeper(self._client())


class Sleeper:
    """A host that puts a sandbox to sleep; see `sandboxkit.guest.activity.Sleeper`."""

    def __init__(self, client: GuestClient) -> None:
        self._client = client
        self._channel: RemoteChannel = client.channel({"op": "sleeper", "passive": True})
        self._begun = client.begun

    async def until_idle(self) -> None:
        """Wait until nothing was done for the idle time-out; other hosts begin nothing more.

        Raises:
            SandboxError: The sandbox, or the connection, was lost.
        """
        while True:
            self._begun = self._client.begun
            left_s = (await self._channel.call({"do": "ask"})).get("left_s", _NEVER_S)
            if left_s is None:
                left_s = _NEVER_S
            if not isinstance(left_s, int | float) or not left_s >= 0:
                raise ProtocolError(f"the guest sent {left_s!r} as seconds")
            if left_s == 0:
                return
            await anyio.sleep(min(max(left_s, _LEAST_S), _LONGEST_S))

    async def still(self) -> bool:
        """Whether nothing was begun since, by any host: true until this task waits next."""
        said = await self._channel.call({"do": "still"})
        return said.get("still") is True and self._client.begun == self._begun

    def close(self) -> None:
        """Leave it to the sandbox again; its idle time begins anew."""
        self._channel.close()
