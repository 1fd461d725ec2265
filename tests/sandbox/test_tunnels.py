"""The ends of tunnels: nothing in the sandbox waits for what is not there any more."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import anyio
import pytest

import sandboxkit as sk

_CLIENT = """
import socket, sys
peer = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
print("connected", flush=True)
try:
    peer.recv(1)
except ConnectionResetError:
    print("reset", flush=True)
"""


@pytest.fixture
def busy() -> Iterator[int]:
    """A port that takes no connection, and refuses none."""
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.socket())
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        port = int(listening.getsockname()[1])
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                waiting.connect(("127.0.0.1", port))
        yield port


@pytest.mark.usefixtures("engine")
async def test_a_tunnel_that_ends_while_it_is_connected(busy: int) -> None:
    async with sk.Sandbox.create("docker") as sandbox:
        async with sandbox.ports.reverse(0, "127.0.0.1", busy) as address:
            process = await sandbox.spawn(["python3", "-c", _CLIENT, str(address.port)])
            assert await process.stdout.receive() == b"connected\n"
        with anyio.fail_after(30):
            assert await process.stdout.receive() == b"reset\n"
        assert await process.wait() == 0
