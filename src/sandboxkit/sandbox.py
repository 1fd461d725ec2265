"""A sandbox: a machine to run commands in, the same on every backend."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import anyio

from sandboxkit.admission import admit
from sandboxkit.channel.client import GuestClient
from sandboxkit.channel.fallback import Fallback, FallbackFiles, refuse
from sandboxkit.channel.files import Files
from sandboxkit.channel.process import (
    PIPE,
    ExecResult,
    Process,
    check_run,
    check_size,
    execute,
    request_for,
)
from sandboxkit.channel.tunnels import Ports
from sandboxkit.concurrency import run_to_end
from sandboxkit.errors import InvalidSpecError, SandboxClosedError
from sandboxkit.guest import wire
from sandboxkit.lifecycle import (
    DESTROY_S,
    Opening,
    check_without_guest,
    choose,
    close,
    connect,
    described,
    finish,
    made,
)
from sandboxkit.ownership import owned
from sandboxkit.progress import Listener, Progress, listening, report
from sandboxkit.providers.base import SandboxHandle, SandboxInfo, SandboxProvider
from sandboxkit.spec import Artifact, SandboxSpec

OUTPUT_LIMIT = 10 * 1024 * 1024
"""Bytes of each stream that `exec` keeps by default: the head and the tail."""

_TERMINAL = (24, 80)


class Sandbox:
    """A living sandbox. Made by `create` or `attach`, not by its constructor.

    Attributes:
        id: The backend's id, for `attach`.
        files: Its files.
        ports: Its ports.
    """

    def __init__(
        self,
        provider: SandboxProvider,
        handle: SandboxHandle,
        channel: GuestClient | Fallback,
        info: SandboxInfo,
        *,
        created: bool,
        owns_provider: bool,
    ) -> None:
        self._provider = provider
        self._handle = handle
        self._channel = channel
        self._info = info
        self._created = created
        self._owns_provider = owns_provider
        self._closed = False
        self.id = info.id
        self.files = (
            FallbackFiles(channel) if isinstance(channel, Fallback) else Files(self._client)
        )
        self.ports = Ports(self._client)

    def __repr__(self) -> str:
        state = "closed" if self._closed else self._info.state
        return f"<Sandbox {self._info.provider} {self.id} {state}>"

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            warnings.warn(
                f"sandbox {self.id} was never closed; it ends with its lease",
                ResourceWarning,
                source=self,
                stacklevel=2,
            )

    @classmethod
    def create(
        cls,
        provider: str | SandboxProvider,
        *,
        spec: SandboxSpec | None = None,
        on_progress: Listener | None = None,
        **fields: Any,
    ) -> Opening[Sandbox]:
        """Create a sandbox: `await` it, or leave it to `async with`, which destroys it.

        Args:
            provider: The backend's name, or an object.
            spec: What it shall be; None is all defaults.
            on_progress: Called with each `Progress` of a slow step (an image pull).
            **fields: Single fields of `SandboxSpec` and `Resources`, such as
                `image="python:3.12-slim"`, `cpu=2`, `memory_gib=4`, `network="open"`.

        Raises:
            InvalidSpecError: A field is unknown or its value wrong.
            UnsupportedError: The backend cannot do what is demanded.
            ProviderNotFoundError: There is no such backend; see also the other
                errors of `providers.registry`.
            SandboxError: The backend failed. Nothing is left behind.

        Cancelling removes what was created so far before the cancellation goes on,
        within 120 s at the most.
        """
        return Opening(cls._create(provider, spec, on_progress, fields))

    @classmethod
    def attach(cls, provider: str | SandboxProvider, sandbox_id: str) -> Opening[Sandbox]:
        """Take up a sandbox that lives. Leaving the `async with` block lets go of it.

        Raises:
            SandboxNotFoundError: There is none of this id, or it is not sandboxkit's.
        """
        return Opening(cls._attach(provider, sandbox_id))

    @classmethod
    async def _create(
        cls,
        chosen: str | SandboxProvider,
        base: SandboxSpec | None,
        on_progress: Listener | None,
        fields: Mapping[str, Any],
    ) -> Sandbox:
        spec = SandboxSpec.build(base, **fields)
        async with contextlib.AsyncExitStack() as undo:
            provider, owns = choose(chosen, undo)
            can = provider.capabilities()
            differences = admit(spec, can, provider.name)
            spec = owned(spec)
            with listening(on_progress):
                await provider.prepare(spec)
                handle = await made(provider, spec)
                undo.push_async_callback(finish, handle.destroy)
                channel = await connect(handle, can.guest_user, spec, undo)
                if isinstance(channel, Fallback):
                    check_without_guest(spec, can)
                info = described(handle.info, channel, differences)
                sandbox = cls(provider, handle, channel, info, created=True, owns_provider=owns)
                if spec.artifacts and not can.artifacts:
                    await sandbox._upload_artifacts(spec.artifacts, can.guest_user)
            undo.pop_all()
        return sandbox

    @classmethod
    async def _attach(cls, chosen: str | SandboxProvider, sandbox_id: str) -> Sandbox:
        async with contextlib.AsyncExitStack() as undo:
            provider, owns = choose(chosen, undo)
            handle = await provider.attach(sandbox_id)
            user = provider.capabilities().guest_user
            channel = await connect(handle, user, SandboxSpec(), undo)
            undo.pop_all()
        info = described(handle.info, channel, ())
        return cls(provider, handle, channel, info, created=False, owns_provider=owns)

    @property
    def info(self) -> SandboxInfo:
        """What is known of it; `effective` and `differences` say what really holds."""
        return self._info

    @property
    def home(self) -> str:
        """The home directory of the sandbox's user."""
        return str(self._client().welcome.get("home"))

    @property
    def workdir(self) -> str:
        """The directory where commands start and relative paths lead from."""
        return str(self._client().welcome.get("workdir"))

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
        request = request_for(argv, cwd=cwd, env=env, user=user)
        check_run(stdin, timeout_s, max_output_bytes)
        channel = self._open_channel()
        run = channel.execute if isinstance(channel, Fallback) else _Executor(channel)
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
        detach: bool = False,
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
                512 KiB of each output stream are kept.

        Raises:
            ExecStartError: It could not be started.
            UnsupportedError: The image has no Python, and so no guest.
        """
        request = request_for(argv, cwd=cwd, env=env, user=user)
        if stdin not in (None, PIPE):
            raise InvalidSpecError("stdin must be PIPE or None; exec() takes bytes")
        size = _TERMINAL if pty is True else pty
        if size:
            check_size(*size)
        client = self._client()
        channel = client.channel(
            {
                **request,
                "stdin": stdin == PIPE,
                "pty": list(size) if size else None,
                "detach": detach,
            },
            inputs=(wire.STDIN,),
            outputs=(wire.STDOUT, wire.STDERR),
        )
        process = Process(channel, argv, process_id=client.process_id(channel), detach=detach)
        try:
            await channel.started()
        except BaseException:
            await process.aclose()
            raise
        return process

    async def process(self, process_id: str) -> Process:
        """Take up a detached process that another host has left.

        Its output continues where that host had acknowledged it.

        Raises:
            ExecStartError: There is no detached process of this id; code `not_found`.
        """
        client = self._client()
        channel = client.channel(
            {"op": "adopt", "process": process_id},
            inputs=(wire.STDIN,),
            outputs=(wire.STDOUT, wire.STDERR),
        )
        process = Process(channel, [process_id], process_id=process_id, detach=True)
        try:
            await channel.started()
        except BaseException:
            channel.close()
            raise
        return process

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
            await close(self._channel, say_bye=False, keep_s=None)
            await self._handle.destroy()
        finally:
            if self._owns_provider:
                await self._provider.aclose()

    async def _leave(self, *, keep_s: float | None) -> None:
        if self._closed:
            return
        if keep_s is not None:
            self._client()
        self._closed = True
        leaving = close(self._channel, say_bye=True, keep_s=keep_s)
        await run_to_end(leaving, deadline_s=DESTROY_S)
        if self._owns_provider:
            await self._provider.aclose()

    def _open_channel(self) -> GuestClient | Fallback:
        if self._closed:
            raise SandboxClosedError("the sandbox has been closed", sandbox_id=self.id)
        return self._channel

    def _client(self) -> GuestClient:
        channel = self._open_channel()
        if isinstance(channel, Fallback):
            refuse("this")
        return channel

    async def _upload_artifacts(self, artifacts: Sequence[Artifact], user: str | None) -> None:
        """For backends that do not mount them."""
        files = Files(self._client, user=user)
        for artifact in artifacts:
            total = (await anyio.Path(artifact.source).stat()).st_size
            step = f"upload {artifact.name} {artifact.version}"
            report(Progress(step, 0, total))
            await files.upload(artifact.source, artifact.target)
            report(Progress(step, total, total, finished=True))


class _Executor:
    """`execute` with a client, in the shape of `Fallback.execute`."""

    def __init__(self, client: GuestClient) -> None:
        self._client = client

    async def __call__(self, request: Mapping[str, Any], **options: Any) -> ExecResult:
        return await execute(self._client, request, **options)
