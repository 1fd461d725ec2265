"""What runs in a channel: a command, or a file operation."""

from __future__ import annotations

import asyncio
import json
import posixpath
import signal
import traceback
from collections.abc import Awaitable, Callable
from typing import Any, Final

from sandboxkit.guest import wire
from sandboxkit.guest.streams import Sender
from sandboxkit.testing.memory.channels import DETACHED_KEEP, Channel, Client, Json, failure
from sandboxkit.testing.memory.commands import Call, Handler, as_bytes, perform
from sandboxkit.testing.memory.files import MemoryFiles, describe
from sandboxkit.testing.memory.packing import BadTreeError, pack, unpack

# Those that end no program by default.
_HARMLESS: Final = frozenset({"CHLD", "CONT", "URG", "WINCH", "STOP", "TSTP", "TTIN", "TTOU"})


class Program(Channel):
    """A command."""

    def __init__(
        self, client: Client, number: int, request: Json, call: Call, *, handler: Handler, pid: int
    ) -> None:
        super().__init__(client, number, (wire.STDOUT, wire.STDERR))
        self.id = f"{client.token[:16]}-{number}"
        self.detach = bool(request.get("detach"))
        self.note = str(request.get("note") or "")
        self._lossless = bool(request.get("lossless"))
        self._whole = True
        self._terminal = bool(request.get("pty"))
        self._signal = int(signal.SIGKILL)
        self._kills: set[asyncio.Task[None]] = set()
        self._has_input = bool(request.get("stdin"))
        self._adrift = False
        self._pid = pid
        self._asked = call
        call.connect(self)
        self.say_reply({"pid": pid})
        self._task = asyncio.create_task(self._run(handler, call))

    async def read(self) -> bytes:
        """The next piece of stdin; empty at its end, or where it has none."""
        return await super().read() if self._has_input else b""

    async def write(self, fd: int, data: bytes) -> None:
        """Write to stdout or stderr; a terminal has only the one."""
        await self.push(wire.STDOUT if self._terminal else fd, data)

    async def _run(self, handler: Handler, call: Call) -> None:
        try:
            answer = await perform(handler, call)
            await self.write(wire.STDOUT, as_bytes(answer.stdout))
            await self.write(wire.STDERR, as_bytes(answer.stderr))
            code = answer.exit_code
        except asyncio.CancelledError:
            code = -self._signal
        except Exception:  # noqa: BLE001 - as a real program: its traceback, and exit code 1
            await self.write(wire.STDERR, traceback.format_exc().encode())
            code = 1
        self._finish(code)

    def _finish(self, code: int) -> None:
        if self.alive:
            for stream in (wire.STDOUT, wire.STDERR):
                self.end(stream)
            written = {str(stream): sender.end for stream, sender in self._senders.items()}
            self.say_done({"exit": code, "oom": False, "output": written})

    def overflow(self, sender: Sender) -> None:
        """Where nobody listens, the end of the output is kept."""
        if self._adrift and not (self._lossless and sender is self._senders[wire.STDOUT]):
            sender.drop_oldest(DETACHED_KEEP)

    def set_adrift(self) -> None:
        """No host has it any more: it runs on."""
        self.client, self._adrift = Client(""), True
        self._changed.set()

    def adopt(self, client: Client, number: int) -> None:
        """Another host takes it up, where the last one has left it."""
        self.client, self.number, self._adrift = client, number, False
        self._call = (0, None)
        offsets = {str(stream): sender.taken for stream, sender in self._senders.items()}
        if not self._input.ended:
            offsets[str(wire.STDIN)] = self._input.received
        self._reply = {
            "pid": self._pid,
            "offsets": offsets,
            "note": self.note,
            "marks": dict(self._marks),
            "whole": self._whole,
        }
        self.resume({})

    def on_frame(self, frame: wire.Frame) -> None:
        """Take a frame of the host's."""
        if frame.kind == wire.DATA and frame.payload:
            self._whole = frame.payload.endswith(b"\n")
        super().on_frame(frame)

    def shown(self, *, detached: bool) -> Json:
        """As it stands in the list of processes."""
        return {
            "id": self.id,
            "pid": self._pid,
            "argv": list(self._asked.argv),
            "running": self.alive,
            "detached": detached,
            "note": self.note,
        }

    def call(self, value: Json) -> None:
        """A signal, a kill, or the size of the terminal."""
        if "signal" in value:
            delivered = self.alive
            self._take(int(value["signal"]))
            self.say_return({"delivered": delivered})
        elif "kill" in value:
            task = asyncio.create_task(self._kill(float(value["kill"])))
            self._kills.add(task)
            task.add_done_callback(self._kills.discard)
        elif "note" in value:
            self.note = str(value["note"])
            self.say_return({})
        elif "resize" in value and self._terminal:
            self.say_return({})
        else:
            super().call(value)

    def _take(self, number: int) -> None:
        if not self.alive:
            return
        self._asked.signals.append(number)
        if number in {getattr(signal, f"SIG{name}", None) for name in _HARMLESS}:
            return
        self._signal = number
        if number == signal.SIGKILL:
            self._finish(-number)  # also if the handler does not let itself be cancelled
        if self._task is not None:
            self._task.cancel()

    async def _kill(self, grace_s: float) -> None:
        if grace_s > 0:
            self._take(signal.SIGTERM)
            await self.settled(grace_s)
        self._take(signal.SIGKILL)
        self.say_return({"gone": True})


class FileOperation(Channel):
    """A file operation."""

    def __init__(self, client: Client, number: int, request: Json, files: MemoryFiles) -> None:
        super().__init__(client, number, (wire.STDOUT,))
        self._files = files
        self._task = asyncio.create_task(self._run(_OPERATIONS[request["do"]], request))

    async def _run(self, operation: Operation, request: Json) -> None:
        try:
            result = await operation(self, self._files, request)
        except OSError as error:
            message = f"{error.filename}: {error.strerror}"
            result = failure("file", message, error.errno)
        except BadTreeError as error:
            result = failure("unsafe_path", str(error))
        except Exception as error:  # noqa: BLE001 - the host is told, whatever it is
            result = failure("file", f"{request['path']}: {error!r}")
        self.end(wire.STDOUT)
        self.say_done(result)

    async def all_input(self) -> bytes:
        """The whole input."""
        pieces: list[bytes] = []
        while data := await self.read():
            pieces.append(data)
        return b"".join(pieces)


Operation = Callable[[FileOperation, MemoryFiles, Json], Awaitable[Json]]


async def _read(channel: FileOperation, files: MemoryFiles, request: Json) -> Json:
    start, limit = int(request.get("offset") or 0), request.get("limit")
    data = files.read(request["path"])[start:][:limit]
    await channel.push(wire.STDOUT, data)
    return {"copied": len(data)}


async def _write(channel: FileOperation, files: MemoryFiles, request: Json) -> Json:
    data = await channel.all_input()
    how: dict[str, Any] = {name: bool(request.get(name)) for name in ("append", "exclusive")}
    parents = bool(request.get("parents"))
    files.write(request["path"], data, mode=request.get("mode"), parents=parents, **how)
    return {"copied": len(data)}


async def _stat(_channel: FileOperation, files: MemoryFiles, request: Json) -> Json:
    path: str = request["path"]
    node = files.node(path, follow=bool(request.get("follow", True)))
    return describe(node, posixpath.basename(path))


async def _list(channel: FileOperation, files: MemoryFiles, request: Json) -> Json:
    entries = files.directory(request["path"]).entries
    lines = [json.dumps(describe(node, name)) + "\n" for name, node in entries.items()]
    await channel.push(wire.STDOUT, "".join(lines).encode())
    return {"count": len(lines)}


async def _remove(_channel: FileOperation, files: MemoryFiles, request: Json) -> Json:
    how = {name: bool(request.get(name)) for name in ("recursive", "missing_ok")}
    files.remove(request["path"], **how)
    return {}


async def _make_dir(_channel: FileOperation, files: MemoryFiles, request: Json) -> Json:
    files.make_dir(
        request["path"],
        parents=bool(request.get("parents")),
        exist_ok=bool(request.get("exist_ok")),
    )
    return {}


async def _move(_channel: FileOperation, files: MemoryFiles, request: Json) -> Json:
    files.move(request["path"], request["target"], overwrite=bool(request.get("overwrite")))
    return {}


async def _pack(channel: FileOperation, files: MemoryFiles, request: Json) -> Json:
    for piece in pack(files.directory(request["path"])):
        await channel.push(wire.STDOUT, piece)
    return {"skipped": []}


async def _unpack(channel: FileOperation, files: MemoryFiles, request: Json) -> Json:
    data = await channel.all_input()
    files.make_dir(request["path"])
    return {"count": unpack(data, files.directory(request["path"]))}


_OPERATIONS: Final[dict[str, Operation]] = {
    "read": _read,
    "write": _write,
    "stat": _stat,
    "list": _list,
    "remove": _remove,
    "make_dir": _make_dir,
    "move": _move,
    "pack": _pack,
    "unpack": _unpack,
}
