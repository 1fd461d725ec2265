"""The protocol over this program's stdin and stdout.

The `mcp` package's own way reads stdin in a thread that its cancellation waits for, so that
SIGTERM would not end a server whose client keeps the pipe open and says nothing.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.shared.message import SessionMessage
from mcp_types import jsonrpc_message_adapter
from pydantic import ValidationError

from sandboxkit.concurrency import apart

log = logging.getLogger(__name__)

_STDIN, _STDOUT, _STDERR = 0, 1, 2
_BLOCK: Final = 64 * 1024
_LAST_S: Final = 1.0

Incoming = MemoryObjectReceiveStream[SessionMessage | Exception]
Outgoing = MemoryObjectSendStream[SessionMessage]


@contextlib.asynccontextmanager
async def standard_streams() -> AsyncGenerator[tuple[Incoming, Outgoing]]:
    """The client's messages, and a stream for ours.

    From here on, whatever else prints goes to stderr. The incoming stream ends with stdin;
    the block is cancelled when nobody reads stdout any more.
    """
    stdin, stdout = os.dup(_STDIN), os.dup(_STDOUT)
    os.dup2(_STDERR, _STDOUT)
    arriving, incoming = anyio.create_memory_object_stream[SessionMessage | Exception]()
    outgoing, leaving = anyio.create_memory_object_stream[SessionMessage]()

    async def receive() -> None:
        with contextlib.suppress(OSError, anyio.BrokenResourceError):
            async with arriving:
                async for line in _lines(stdin):
                    await arriving.send(_message(line))

    async def send() -> None:
        try:
            async with leaving:
                async for item in leaving:
                    text = item.message.model_dump_json(by_alias=True, exclude_unset=True)
                    await apart(_write_all, stdout, text.encode() + b"\n")
        except OSError:
            log.info("the client has left")
            tasks.cancel_scope.cancel()
        written.set()

    written = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(receive)
        tasks.start_soon(send)
        yield incoming, outgoing
        with anyio.move_on_after(_LAST_S):  # the last answers
            await written.wait()
        tasks.cancel_scope.cancel()


async def _lines(fd: int) -> AsyncIterator[bytes]:
    begun: list[bytes] = []
    while block := await apart(os.read, fd, _BLOCK):
        *ends, rest = block.split(b"\n")
        for end in ends:
            if line := b"".join((*begun, end)).strip():
                yield line
            begun.clear()
        begun.append(rest)


def _message(line: bytes) -> SessionMessage | Exception:
    try:
        return SessionMessage(jsonrpc_message_adapter.validate_json(line, by_name=False))
    except ValidationError as error:
        return error


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
