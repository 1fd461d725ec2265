"""The way out of one sandbox: a proxy on this machine, and the ports inside that lead to it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import anyio
import anyio.to_thread

from sandboxkit.channel.adoption import list_ports
from sandboxkit.channel.tunnels import Listening
from sandboxkit.concurrency import run_to_end
from sandboxkit.errors import ExecStartError
from sandboxkit.gateway import environment
from sandboxkit.gateway.way import Way, note_of, read_way
from sandboxkit.trust import install

if TYPE_CHECKING:
    from sandboxkit.channel.client import GuestClient
    from sandboxkit.gateway.egress import Egress

_CLOSE_S: Final = 20.0
_LOOK_S: Final = 0.25
_RETURN_S: Final = 4.0  # the guest gives a host up whose connection has been lost for 3 s


class Outlet:
    """A way out. Its ports outlive this host: what connects then waits for the next.

    Args:
        client: The way into the sandbox.
        egress: The proxy; it is entered by `begin`.
        owner: Who may write in the sandbox where its user cannot; None if nobody.

    Attributes:
        egress: See above.
        env: What programs need to find it, and to trust it.
        port: Where they find it in the sandbox.
    """

    def __init__(self, client: GuestClient, egress: Egress, owner: str | None) -> None:
        self.egress = egress
        self.env: dict[str, str] = {}
        self.port = 0
        self._client, self._owner = client, owner
        self._undo = contextlib.AsyncExitStack()

    async def begin(self, port: int, left: Way | None) -> None:
        """Listen in the sandbox: on a new port (0), or on that of an earlier host.

        Raises:
            ExecStartError: Another host has it now.
            UnsupportedError: There is no place for a certificate that secrets need.
        """
        egress = await self._undo.enter_async_context(self.egress)
        bundle = await self._trusted(None if left is None else left.bundle)
        name = None if bundle is None else bundle.rpartition("/")[2]
        self.port = await self._listen(port, note_of(egress.token, egress.placeholders, name))
        self.env = environment.proxy_environment(self.port, egress.token)
        if bundle is not None:
            self.env |= environment.trust_environment(bundle) | egress.placeholders

    async def inherit(self) -> None:
        """Take the ports of hosts that are gone, for the programs that know them."""
        for port, way in (await _free_ways(self._client, wait_s=0.0)).items():
            self.egress.admit(way)
            if way.bundle is not None:
                await self._trusted(way.bundle)
            with contextlib.suppress(ExecStartError):  # another host was quicker
                await self._listen(port, way.model_dump_json())

    async def aclose(self) -> None:
        """End the proxy, and all connections through it."""
        await self._undo.aclose()

    async def _listen(self, port: int, note: str) -> int:
        here = ("127.0.0.1", self.egress.port)
        listening = Listening(self._client, *here, passive=True, keep=True, note=note)
        self._undo.push_async_callback(listening.aclose)
        return await listening.open(port)

    async def _trusted(self, left: str | None) -> str | None:
        """Where the proxy's certificate lies in the sandbox; None if it has none."""
        if self.egress.ca_pem is None:
            return None
        return await install(self._client, self.egress.ca_pem, self._owner, left)


async def open_outlet(
    client: GuestClient, make: Callable[[Way | None], Egress], owner: str | None
) -> Outlet:
    """Make a way out; where hosts that are gone have left theirs, it takes their place.

    Args:
        client: The way into the sandbox.
        make: Makes the proxy, given the way out that it shall take the place of. It is called
            in a worker thread.
        owner: Who may write in the sandbox where its user cannot; None if nobody.

    Raises:
        UnsupportedError: There is no place for a certificate that secrets need.
        ImportError: A package is missing; it says how to install it.
    """
    for port, left in (await _free_ways(client, wait_s=_RETURN_S)).items():
        with contextlib.suppress(ExecStartError):  # another host was quicker
            return await _opened(client, make, owner, port, left)
    return await _opened(client, make, owner, 0, None)


async def _opened(
    client: GuestClient,
    make: Callable[[Way | None], Egress],
    owner: str | None,
    port: int,
    left: Way | None,
) -> Outlet:
    outlet = Outlet(client, await anyio.to_thread.run_sync(make, left), owner)
    try:
        await outlet.begin(port, left)
        if left is not None:
            await outlet.inherit()  # others, of hosts that were there at the same time
    except BaseException:
        await run_to_end(outlet.aclose(), deadline_s=_CLOSE_S)
        raise
    return outlet


async def _free_ways(client: GuestClient, *, wait_s: float) -> dict[int, Way]:
    """The ports of hosts that are gone, and by what programs know them.

    Args:
        client: The way into the sandbox.
        wait_s: How long to wait until it is known of a host that has lost its connection,
            whether it comes back.
    """
    until = anyio.current_time() + wait_s
    while True:
        ports = await list_ports(client)
        unknown = [each for each in ports if not each.free and not each.connected]
        if not unknown or anyio.current_time() >= until:
            break
        await anyio.sleep(_LOOK_S)
    ways = {each.port: read_way(each.note) for each in ports if each.free}
    return {port: way for port, way in ways.items() if way is not None}
