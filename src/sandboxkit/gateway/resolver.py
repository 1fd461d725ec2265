"""From an allowed name to a connection: resolved once, checked, and that address dialled."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from sandboxkit.gateway.addresses import plain, why_denied
from sandboxkit.gateway.hosts import literal
from sandboxkit.gateway.limits import Limits

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""From a canonical name and a port to its addresses."""

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Dial = Callable[[str, int], Awaitable[Streams]]
"""Connects to an address, which has been checked, and a port."""


class Unreachable(Exception):
    """An allowed host cannot be reached: no such name, or nobody answers."""


class AddressDenied(Exception):
    """A name stands for an address that is never allowed."""


class Resolver:
    """Resolves, checks and connects.

    Args:
        limits: The deadlines, and how much a connection buffers.
        resolve: In place of the system's resolver.
        dial: In place of a TCP connection. It only ever gets addresses that have passed
            the check: a test can lead a public address to a server on loopback.
    """

    def __init__(
        self, limits: Limits, resolve: Resolve | None = None, dial: Dial | None = None
    ) -> None:
        self._limits = limits
        self._resolve = resolve or self._ask_the_system
        self._dial = dial or self._connect
        # Threads of its own: a session whose names are slow to resolve delays no other.
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="sandboxkit-resolve")

    async def addresses(self, host: str, port: int) -> tuple[str, ...]:
        """The addresses of a canonical host, of which every one has been checked.

        Raises:
            AddressDenied: One of them is never allowed.
            Unreachable: There is none.
        """
        found: Sequence[str] = (host,)
        if literal(host) is None:
            try:
                async with asyncio.timeout(self._limits.resolve_s):
                    found = await self._resolve(host, port)
            except TimeoutError:
                raise Unreachable(f"{host} could not be resolved in time") from None
            except (OSError, UnicodeError):
                raise Unreachable(f"{host} could not be resolved") from None
        checked = tuple(dict.fromkeys(_checked(host, address) for address in found))
        if not checked:
            raise Unreachable(f"{host} has no address")
        return checked

    async def connect(self, addresses: Sequence[str], port: int) -> tuple[str, Streams]:
        """Connect to the first of the checked addresses that answers.

        Raises:
            AddressDenied: The address is this machine's own.
            Unreachable: None answers.
        """
        reason = "no answer"
        for address in addresses:
            try:
                async with asyncio.timeout(self._limits.connect_s):
                    return address, await self._dial(address, port)
            except TimeoutError:
                reason = "no answer in time"
            except OSError as error:
                reason = error.strerror or type(error).__name__
        raise Unreachable(f"port {port} of {', '.join(addresses)}: {reason}")

    def close(self) -> None:
        """Give the threads up; what still resolves ends by itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _ask_the_system(self, host: str, port: int) -> Sequence[str]:
        def ask() -> Sequence[str]:
            # With the dot the name is complete: the search domains of this machine, which
            # would lead into its private network, are not tried.
            found = socket.getaddrinfo(host + ".", port, type=socket.SOCK_STREAM)
            return [str(sockaddr[0]) for *_, sockaddr in found]

        return await asyncio.get_running_loop().run_in_executor(self._threads, ask)

    async def _connect(self, address: str, port: int) -> Streams:
        if is_own(address):
            raise AddressDenied(f"{address} is an address of the machine that runs the gateway")
        return await asyncio.open_connection(address, port, limit=self._limits.head_bytes)


def _checked(host: str, address: str) -> str:
    try:
        found = plain(address)
    except ValueError:
        raise AddressDenied(f"{host} stands for something that is no address") from None
    if kind := why_denied(found):
        raise AddressDenied(f"{host} stands for {found}, and {kind} addresses are never allowed")
    return str(found)


def is_own(address: str) -> bool:
    """Whether an address is one of this machine's, public or not.

    Its services may be open to itself alone. The kernel tells: it would connect from the
    very address that it connects to. Nothing is sent.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.settimeout(0)
            probe.connect((address, 9))
            return bool(probe.getsockname()[0] == address)
    except OSError:
        return False  # no route: the connection itself will say so
