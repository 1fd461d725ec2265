"""Without the guest: for images that have no Python.

Commands run by the backend's own `spawn`, files by small shell scripts. What needs
the guest (spawn, streams, tunnels, detached processes) is refused by name.
"""

from __future__ import annotations

import math
import shlex
import signal as signals
import time
from collections.abc import Mapping
from typing import Any, NoReturn

import anyio

from sandboxkit.channel.files import Files
from sandboxkit.channel.process import Capture, ExecResult
from sandboxkit.channel.remote import RemoteChannel, Sink
from sandboxkit.concurrency import run_to_end
from sandboxkit.errors import FileError, SandboxError, UnsupportedError
from sandboxkit.providers.base import ByteChannel, Command, Difference, SandboxHandle

_KILL_S = 10.0
_CHECK_S = 30.0
_PIECE = 64 * 1024

# Says its number on stderr before it becomes the command, so that it can be ended.
_WRAPPER = 'echo "$$" >&2; if [ -n "$1" ]; then cd "$1" || exit 126; fi; shift; exec "$@"'

_SCRIPTS = {
    "read": "cat -- {path}",
    "write": "mkdir -p -- {parent} && cat > {path}",
    "make_dir": "mkdir -p -- {path}",
    "remove": "rm -r -- {path}",
    "move": "mv -- {path} {target}",
}


NO_GUEST = tuple(
    Difference(field, "kept by the guest", None, "the image has no Python, and so no guest")
    for field in ("lease_s", "lifetime_s", "idle_timeout_s")
)
"""What does not hold without the guest. On Docker the sandbox ends with its host instead."""


def refuse(what: str) -> NoReturn:
    """Raise the error for what needs the guest."""
    raise UnsupportedError(
        f"{what} needs Python 3.8 or later in the image, and this one has none: "
        "use another image, or add python3 to it",
        code="no_guest",
    )


class Fallback:
    """Commands by the backend's own spawn.

    Args:
        handle: The sandbox.
        keeper: The sandbox's main program, if it lives only while that is held.
        env: Variables of every command.
        workdir: Where commands start.
    """

    def __init__(
        self,
        handle: SandboxHandle,
        keeper: ByteChannel | None,
        env: Mapping[str, str],
        workdir: str,
    ) -> None:
        self._handle = handle
        self._keeper = keeper
        self._env = env
        self._workdir = workdir

    async def aclose(self) -> None:
        """Let go of the sandbox's main program."""
        if self._keeper is not None:
            await self._keeper.aclose()

    async def check(self) -> None:
        """See that commands can be run at all.

        Raises:
            SandboxError: They cannot: the image has no shell, or is for another platform.
        """
        request: dict[str, Any] = {"argv": ["/bin/sh", "-c", ":"], "cwd": "/", "env": {}}
        request["user"] = None
        await self.execute(request, stdin=None, timeout_s=_CHECK_S, max_output_bytes=_PIECE)

    async def execute(
        self,
        request: Mapping[str, Any],
        *,
        stdin: bytes | None,
        timeout_s: float | None,
        max_output_bytes: int,
    ) -> ExecResult:
        """Run a command to its end, as `process.execute` does where there is a guest."""
        began = time.monotonic()
        capture = _Capture(max_output_bytes)
        cwd = str(request["cwd"] or self._workdir)
        argv = ("/bin/sh", "-c", _WRAPPER, "sh", cwd, *request["argv"])
        env = {**self._env, **request["env"]}
        stream = await self._handle.spawn(Command(argv, env=env, user=request["user"]))
        try:
            with anyio.move_on_after(math.inf if timeout_s is None else timeout_s) as scope:
                await _converse(stream, stdin, capture)
            timed_out = scope.cancelled_caught
            if timed_out:
                await run_to_end(self._kill(capture.pid, request["user"]), deadline_s=_KILL_S)
                with anyio.move_on_after(_KILL_S):
                    await _converse(stream, None, capture)
            with anyio.fail_after(_KILL_S):
                code = await stream.wait()
        except BaseException:
            await run_to_end(self._kill(capture.pid, request["user"]), deadline_s=_KILL_S)
            raise
        finally:
            await stream.aclose()
        return ExecResult(
            exit_code=-signals.SIGKILL if code is None else code,
            stdout=capture.output(1),
            stderr=capture.output(2),
            timed_out=timed_out,
            oom_killed=False,
            truncated=capture.truncated,
            duration_s=time.monotonic() - began,
            argv=tuple(request["argv"]),
        )

    async def _kill(self, pid: int | None, user: str | None) -> None:
        if pid is None:
            return
        # The backend's exec makes the shell a session leader; dash wants the `--`.
        script = f"kill -s KILL -- -{pid} 2>/dev/null || kill -s KILL {pid}"
        try:
            stream = await self._handle.spawn(Command(("/bin/sh", "-c", script), user=user))
            try:
                while await stream.receive() is not None:
                    pass
            finally:
                await stream.aclose()
        except SandboxError:
            return


class _Capture(Capture):
    """Keeps the output, save the first line of stderr: the process's number."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self._first: bytes | None = b""
        self.pid: int | None = None

    def __call__(self, stream: int, data: bytes) -> None:
        if stream == 2 and self._first is not None:
            line, newline, rest = (self._first + data).partition(b"\n")
            if not newline:
                self._first = line
                return
            self._first, data = None, rest
            self.pid = int(line) if line.isdigit() else None
        super().__call__(stream, data)


async def _converse(stream: ByteChannel, stdin: bytes | None, capture: Capture) -> None:
    async def feed() -> None:
        try:
            for at in range(0, len(stdin or b""), _PIECE):
                await stream.send((stdin or b"")[at : at + _PIECE])
            await stream.send_eof()
        except SandboxError:
            return  # it ended without reading its input

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(feed)
        while (output := await stream.receive()) is not None:
            capture(output.fd, output.data)
        tasks.cancel_scope.cancel()


class FallbackFiles(Files):
    """What of `Files` can be done by a shell."""

    def __init__(self, fallback: Fallback) -> None:
        super().__init__(lambda: refuse("this file operation"))
        self._fallback = fallback

    def _open(self, request: Mapping[str, Any], sink: Sink | None) -> RemoteChannel:  # noqa: ARG002
        refuse(f"files.{request['do']}")

    async def _run(
        self, request: Mapping[str, Any], *, stdin: bytes = b"", sink: Sink | None = None
    ) -> dict[str, Any]:
        script = _SCRIPTS.get(request["do"]) or refuse(f"files.{request['do']}")
        path = str(request["path"])
        parent = path.rpartition("/")[0] or "."
        words = {"path": path, "parent": parent, "target": str(request.get("target"))}
        line = script.format(**{name: shlex.quote(word) for name, word in words.items()})
        result = await self._fallback.execute(
            {"argv": ["/bin/sh", "-c", line], "cwd": None, "env": {}, "user": None},
            stdin=stdin,
            timeout_s=None,
            max_output_bytes=2 * int(request.get("limit") or _PIECE),
        )
        if result.exit_code:
            said = result.stderr.decode("utf-8", "replace").strip()
            raise FileError(f"{path}: {said}", op=f"files.{request['do']}")
        if sink is not None:
            sink(1, result.stdout)
        return {}
