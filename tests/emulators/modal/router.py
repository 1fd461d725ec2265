"""The task command router: programs, their streams, and what is done inside a sandbox."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from grpclib import GRPCError, Status
from modal_proto import task_command_router_pb2 as router

from tests.emulators.machines import Machine
from tests.emulators.modal import file_tools
from tests.emulators.modal.control import Apps
from tests.emulators.modal.definition import MAX_LIFE_S, check_arguments
from tests.emulators.modal.images import Images
from tests.emulators.modal.messages import Message, nothing
from tests.emulators.modal.programs import Exec
from tests.emulators.modal.sandboxes import Sandbox, Sandboxes, alive
from tests.emulators.modal.wire import Methods, Output, Poll, Spawn, Upload, Work

# The SDK's own deadline comes first and makes the exit code -1, as it does at Modal.
_TIMEOUT_GRACE_S = 1.0
_STDOUT = router.TASK_EXEC_STDIO_FILE_DESCRIPTOR_STDOUT
_STDERR = router.TASK_EXEC_STDIO_FILE_DESCRIPTOR_STDERR


class Router:
    """All routers: which sandbox a request is for, its token says."""

    def __init__(self, apps: Apps, images: Images, sandboxes: Sandboxes, spawn: Spawn) -> None:
        self._apps, self._images, self._sandboxes = apps, images, sandboxes
        self._spawn = spawn

    def methods(self) -> Methods:
        """What the router answers."""
        return {
            "SandboxStdinWriteV2": Work("input", self._write_entry),
            "SandboxStdioReadV2": Output(_stream_op("entry"), self._read_entry),
            "TaskExecPoll": Poll("poll", self._poll),
            "TaskExecStart": Work(_start_op, self._start, key=lambda request: request.exec_id),
            "TaskExecStdinStatus": Work("input_status", self._stdin_status),
            "TaskExecStdinWrite": Work("input", self._write),
            "TaskExecStdinWriteStream": Upload("input", self._write_stream),
            "TaskExecStdioRead": Output(_stream_op("output"), self._read),
            "TaskExecWait": Poll("wait", self._wait),
            "TaskMountDirectory": Work("mount", self._mount),
            "TaskSnapshotDirectory": Work("snapshot", self._snapshot_directory, key=_snapshot_id),
            "TaskSnapshotFilesystem": Work("snapshot", self._snapshot, key=_snapshot_id),
            "TaskUnmountDirectory": Work("mount", self._unmount),
        }

    async def _start(self, request: router.TaskExecStartRequest) -> Message:
        sandbox, machine = self._sandboxes.of_task(request.task_id)
        argv = list(request.command_args)
        _check_start(request)
        if argv[0] == file_tools.PATH:
            argv = file_tools.command(argv[1:])
        env = {**self._apps.env_of(request.secret_sources), **request.env}
        keep = (
            request.stdout_config == router.TASK_EXEC_STDOUT_CONFIG_PIPE,
            request.stderr_config == router.TASK_EXEC_STDERR_CONFIG_PIPE,
        )
        program = Exec(keep=keep)
        await alive(program.start(machine, argv, env, request.workdir or sandbox.cwd))
        sandbox.execs[request.exec_id] = program
        self._spawn(program.pump())
        if request.timeout_secs:
            self._spawn(_time_out(program, machine, request.timeout_secs))
        return router.TaskExecStartResponse()

    def _exec(self, request: Any) -> tuple[Sandbox, Exec]:
        sandbox, _ = self._sandboxes.of_task(request.task_id)
        program = sandbox.execs.get(request.exec_id)
        if program is None:
            raise GRPCError(Status.NOT_FOUND, f"Exec {request.exec_id} not found")
        return sandbox, program

    async def _read(self, request: router.TaskExecStdioReadRequest) -> AsyncGenerator[Message]:
        _, program = self._exec(request)
        if request.file_descriptor not in {_STDOUT, _STDERR}:
            raise GRPCError(Status.INVALID_ARGUMENT, "file_descriptor is required")
        log = program.logs[1 if request.file_descriptor == _STDOUT else 2]
        async with aclosing(log.read(request.offset)) as pieces:
            async for data in pieces:
                yield router.TaskExecStdioReadResponse(data=data)

    async def _write(self, request: router.TaskExecStdinWriteRequest) -> Message:
        sandbox, program = self._exec(request)
        await program.feed(request.offset, request.data, eof=request.eof)
        sandbox.active_at = asyncio.get_running_loop().time()
        return router.TaskExecStdinWriteResponse()

    async def _write_stream(
        self,
        request: router.TaskExecStdinWriteStreamRequest,
        rest: AsyncIterator[router.TaskExecStdinWriteStreamRequest],
    ) -> Message:
        if request.WhichOneof("payload") != "start":
            raise GRPCError(Status.INVALID_ARGUMENT, "The first message must be the start")
        _, program = self._exec(request.start)
        offset = request.start.offset
        async for message in rest:
            if message.WhichOneof("payload") == "end":
                await self._spawn(program.feed(offset, b"", eof=True))
                return router.TaskExecStdinWriteStreamResponse()
            # Not cancelled with its request: a piece is written whole or not at all.
            await asyncio.shield(self._spawn(program.feed(offset, message.data, eof=False)))
            offset += len(message.data)
        raise GRPCError(Status.CANCELLED, "The stream ended before its end message")

    async def _stdin_status(self, request: router.TaskExecStdinStatusRequest) -> Message:
        _, program = self._exec(request)
        return router.TaskExecStdinStatusResponse(
            num_bytes_written=program.fed, closed=program.eof or program.ended.is_set()
        )

    async def _poll(self, request: router.TaskExecPollRequest) -> Message:
        _, program = self._exec(request)
        if program.code is None:
            return router.TaskExecPollResponse()
        return router.TaskExecPollResponse(code=program.code)

    async def _wait(self, request: router.TaskExecWaitRequest) -> Message:
        sandbox, program = self._exec(request)
        watches = [asyncio.ensure_future(each.wait()) for each in (program.ended, sandbox.ended)]
        try:
            await asyncio.wait(watches, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for watch in watches:
                watch.cancel()
        if sandbox.result is not None or program.code is None:
            raise GRPCError(Status.NOT_FOUND, f"Task {request.task_id} has finished")
        return router.TaskExecWaitResponse(code=program.code)

    async def _read_entry(
        self, request: router.SandboxStdioReadV2Request
    ) -> AsyncGenerator[Message]:
        for sandbox in self._sandboxes.all.values():
            if sandbox.task_id == request.task_id:  # also once it has ended
                break
        else:
            raise GRPCError(Status.NOT_FOUND, f"Task {request.task_id} not found")
        offset = request.offset
        is_stdout = request.file_descriptor == router.SANDBOX_STDIO_FILE_DESCRIPTOR_STDOUT
        log = sandbox.entry.logs[1 if is_stdout else 2]
        async with aclosing(log.read(offset)) as pieces:
            async for data in pieces:
                yield router.SandboxStdioReadV2Response(data=data, starting_offset=offset)
                offset += len(data)

    async def _write_entry(self, request: router.SandboxStdinWriteV2Request) -> Message:
        sandbox, _ = self._sandboxes.of_task(request.task_id)
        await sandbox.entry.feed(request.offset, request.data, eof=request.eof)
        return router.SandboxStdinWriteV2Response()

    async def _snapshot(self, request: router.TaskSnapshotFilesystemRequest) -> Message:
        sandbox, machine = self._sandboxes.of_task(request.task_id)
        _check_snapshot(request)
        image_id = await alive(self._images.snapshot(machine, sandbox))
        return router.TaskSnapshotFilesystemResponse(image_id=image_id)

    async def _snapshot_directory(self, request: router.TaskSnapshotDirectoryRequest) -> Message:
        _, machine = self._sandboxes.of_task(request.task_id)
        _check_snapshot(request)
        path = _absolute(request.path)
        image_id = await alive(self._images.snapshot_directory(machine, path))
        return router.TaskSnapshotDirectoryResponse(image_id=image_id)

    async def _mount(self, request: router.TaskMountDirectoryRequest) -> Message:
        sandbox, machine = self._sandboxes.of_task(request.task_id)
        path = _absolute(request.path)
        if path in sandbox.mounts:
            raise GRPCError(Status.FAILED_PRECONDITION, f"An image is mounted at {path} already")
        await alive(self._images.mount(machine, path, request.image_id))
        sandbox.mounts[path] = request.image_id
        return nothing()

    async def _unmount(self, request: router.TaskUnmountDirectoryRequest) -> Message:
        sandbox, machine = self._sandboxes.of_task(request.task_id)
        path = _absolute(request.path)
        if path not in sandbox.mounts:
            raise GRPCError(Status.FAILED_PRECONDITION, f"Nothing is mounted at {path}")
        await alive(self._images.unmount(machine, path))
        del sandbox.mounts[path]
        return nothing()


def _start_op(request: router.TaskExecStartRequest) -> str:
    is_file_work = list(request.command_args[:1]) == [file_tools.PATH]
    return "files" if is_file_work else "start"


def _stream_op(name: str) -> Any:
    """Only the first stream is struck by name, or it would be luck which one is."""

    def op(request: Any) -> str:
        return name if request.file_descriptor == _STDOUT else f"{name}_stderr"

    return op


def _snapshot_id(request: Any) -> str:
    return str(request.snapshot_id)


def _check_start(request: router.TaskExecStartRequest) -> None:
    if request.container_id or request.secret_ids:
        raise GRPCError(Status.UNIMPLEMENTED, "container_id and secret_ids are not emulated")
    if request.HasField("pty_info"):
        raise GRPCError(Status.UNIMPLEMENTED, "pty_info is not emulated")
    if not request.command_args or not request.command_args[0] or not request.exec_id:
        raise GRPCError(Status.INVALID_ARGUMENT, "command_args and exec_id are required")
    if request.workdir and not request.workdir.startswith("/"):
        raise GRPCError(Status.INVALID_ARGUMENT, f"Not an absolute path: {request.workdir!r}")
    if request.timeout_secs > MAX_LIFE_S:
        raise GRPCError(Status.INVALID_ARGUMENT, f"timeout is too long: {request.timeout_secs} s")
    check_arguments(request.command_args)
    if request.command_args[0] == file_tools.PATH:
        json.loads(request.command_args[1])


def _check_snapshot(request: Any) -> None:
    if request.container_id or request.HasField("customer_supplied_encryption_key"):
        raise GRPCError(Status.UNIMPLEMENTED, "container_id and keys are not emulated")
    if not request.snapshot_id:
        raise GRPCError(Status.INVALID_ARGUMENT, "snapshot_id is required")


def _absolute(path: bytes) -> str:
    text = path.decode().rstrip("/")
    if not text.startswith("/"):
        raise GRPCError(Status.INVALID_ARGUMENT, f"Not an absolute path below the root: {path!r}")
    return text


async def _time_out(program: Exec, machine: Machine, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds + _TIMEOUT_GRACE_S):
            await program.ended.wait()
    except TimeoutError:
        await alive(program.kill(machine))
