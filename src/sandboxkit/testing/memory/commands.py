"""Commands as Python functions: what a test registers, and a few that are always there."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Final, Protocol

from sandboxkit.errors import InvalidSpecError
from sandboxkit.testing.memory.files import MemoryFiles


@dataclass(frozen=True, slots=True)
class Answer:
    """How a command ends.

    Attributes:
        exit_code: Its exit code.
        stdout: What it writes at the end; text as UTF-8.
        stderr: Likewise.
    """

    exit_code: int = 0
    stdout: bytes | str = b""
    stderr: bytes | str = b""


class Streams(Protocol):
    """The streams of a running command."""

    async def read(self) -> bytes:
        """The next piece of input; empty at its end."""
        ...

    async def write(self, fd: int, data: bytes) -> None:
        """Write to descriptor 1 or 2."""
        ...


@dataclass(slots=True)
class Call:
    """One command that was asked for.

    Attributes:
        argv: The program and its arguments.
        env: Its whole environment.
        cwd: Where it starts, absolute.
        user: The user it was asked to run as; None is the sandbox's own.
        sandbox_id: In which sandbox.
        files: The sandbox's files; relative paths start at `cwd`.
        stdin: What has been read of its input.
        signals: The signals it got, in their order.
    """

    argv: tuple[str, ...]
    env: dict[str, str] = field(repr=False)
    cwd: str
    user: str | None
    sandbox_id: str
    files: MemoryFiles = field(repr=False)
    stdin: bytes = field(default=b"", repr=False)
    signals: list[int] = field(default_factory=list[int])
    _streams: Streams | None = field(default=None, repr=False)

    def connect(self, streams: Streams) -> None:
        """Called when the command starts, with what `read` and `write` go to."""
        self._streams = streams

    async def read(self) -> bytes:
        """The next piece of its input; empty at the end."""
        data = await self._streams.read() if self._streams else b""
        self.stdin += data
        return data

    async def write(self, data: bytes | str, *, fd: int = 1) -> None:
        """Write to stdout, or with `fd=2` to stderr; waits while the host is 1 MiB behind."""
        if self._streams:
            await self._streams.write(fd, as_bytes(data))


Handler = Callable[[Call], Answer | Awaitable[Answer | None] | None]
"""A command. A plain function is called when all input has been read, an async one at the
start. A signal that would end a program cancels it."""

Matcher = Callable[[tuple[str, ...]], bool]


class Commands:
    """The registered commands; of several that fit, the last one counts."""

    def __init__(self) -> None:
        self._known: list[tuple[Matcher, Handler]] = []

    def add(self, what: Sequence[str] | Matcher, handler: Handler) -> None:
        """Register a command for argument lists that start with, or satisfy, `what`.

        Raises:
            InvalidSpecError: `what` is a string or empty.
        """
        if callable(what):
            self._known.append((what, handler))
            return
        if isinstance(what, str) or not what:
            raise InvalidSpecError(
                f"a command is a list such as ['git', 'status'], or a function, not {what!r}"
            )
        start = tuple(what)
        self._known.append((lambda argv: argv[: len(start)] == start, handler))

    def find(self, argv: tuple[str, ...]) -> Handler | None:
        """The command for an argument list; None if there is none."""
        for fits, handler in reversed(self._known):
            if fits(argv):
                return handler
        return _BUILTINS.get(PurePosixPath(argv[0]).name)


async def perform(handler: Handler, call: Call) -> Answer:
    """Run a command to its end."""
    if not inspect.iscoroutinefunction(handler):
        while await call.read():
            pass
    answer = handler(call)
    if inspect.isawaitable(answer):
        answer = await answer
    return answer or Answer()


def as_bytes(data: bytes | str) -> bytes:
    """Text as UTF-8, bytes as they are."""
    return data.encode() if isinstance(data, str) else data


async def _echo(call: Call) -> Answer:
    return Answer(stdout=" ".join(call.argv[1:]) + "\n")


async def _cat(call: Call) -> Answer:
    for name in call.argv[1:]:
        try:
            await call.write(call.files.read(name))
        except OSError as error:
            return Answer(1, stderr=f"cat: {name}: {error.strerror}\n")
    if len(call.argv) == 1:
        while data := await call.read():
            await call.write(data)
    return Answer()


async def _sleep(call: Call) -> Answer:
    await asyncio.sleep(float(call.argv[1]))
    return Answer()


async def _true(_call: Call) -> Answer:
    return Answer()


async def _false(_call: Call) -> Answer:
    return Answer(1)


_BUILTINS: Final[dict[str, Handler]] = {
    "cat": _cat,
    "echo": _echo,
    "false": _false,
    "sleep": _sleep,
    "true": _true,
}
