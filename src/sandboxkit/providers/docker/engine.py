"""One Docker engine: its API in threads of ours, and connections of our own."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Final, TypeVar, cast

import anyio
from anyio import CapacityLimiter, to_thread

from sandboxkit.concurrency import run_to_end
from sandboxkit.errors import ProviderNotInstalledError
from sandboxkit.providers.docker.api import Api, Json
from sandboxkit.providers.docker.connection import connect
from sandboxkit.providers.docker.endpoint import Endpoint, resolve
from sandboxkit.providers.docker.failures import map_errors
from sandboxkit.providers.docker.hijack import hijack

if TYPE_CHECKING:
    from anyio.abc import ByteStream

T = TypeVar("T")

INSTALL_HINT: Final = 'pip install "sandboxkit[docker]"'
CALL_S: Final = 30.0
LONG_S: Final = 1800.0  # a pull, a build, an upload
_NOTICE_S: Final = 5.0
_SILENCE_S: Final = 60  # without a byte from the engine in one HTTP request
_THREADS: Final = 16
_ANY_VERSION: Final = "1.41"  # until the engine has said which one it speaks
_LONG_THREADS: Final = 4
_INFO_S: Final = 60.0

StillWanted = Callable[[], None]


class AbandonedError(Exception):
    """Raised in the worker thread of a long call whose caller has gone."""


class Engine:
    """The API of one engine. Connects at first use, once.

    Args:
        host: Its address, as in `DOCKER_HOST`; None is as the docker command finds it.
        context: The name of a docker context.
    """

    def __init__(self, host: str | None = None, context: str | None = None) -> None:
        self._host, self._context = host, context
        self._connecting = anyio.Lock()
        self._connected: tuple[Endpoint, Api] | None = None
        self._threads = CapacityLimiter(_THREADS)
        self._long_threads = CapacityLimiter(_LONG_THREADS)
        self._info: tuple[float, Json] | None = None

    @property
    def host(self) -> str:
        """The address, for messages."""
        return self._connected[0].host if self._connected else self._host or "the default address"

    async def call(
        self,
        op: str,
        function: Callable[[Api], T],
        *,
        sandbox_id: str | None = None,
        deadline_s: float = CALL_S,
    ) -> T:
        """Run one API call in a worker thread.

        On cancellation or after the deadline the thread is left behind; its request
        ends by its own time-out.

        Raises:
            SandboxError: As `failures.map_errors` says.
        """
        _endpoint, api = await self._connect()
        with map_errors(op, self.host, sandbox_id), anyio.fail_after(deadline_s):
            return await to_thread.run_sync(
                function, api, abandon_on_cancel=True, limiter=self._threads
            )

    async def clock(self) -> datetime:
        """The engine's own time: this machine's may be another, or be moved."""
        said = await self.call("clock", lambda api: api.info())
        return datetime.fromisoformat(str(said["SystemTime"]))

    async def work(
        self,
        op: str,
        function: Callable[[Api, StillWanted], T],
        *,
        deadline_s: float = LONG_S,
    ) -> T:
        """Run something long in a worker thread: a pull, a build, an upload.

        `function` calls its second argument between steps; that raises once the caller
        has gone. Cancellation waits a little for the thread to notice, so that what it
        has made can be cleaned up.
        """
        _endpoint, api = await self._connect()
        gone, started, ended = threading.Event(), threading.Event(), threading.Event()

        def still_wanted() -> None:
            if gone.is_set():
                raise AbandonedError

        def work() -> T:
            started.set()
            try:
                still_wanted()
                return function(api, still_wanted)
            finally:
                ended.set()

        try:
            with map_errors(op, self.host), anyio.fail_after(deadline_s):
                return await to_thread.run_sync(
                    work, abandon_on_cancel=True, limiter=self._long_threads
                )
        finally:
            gone.set()
            if started.is_set() and not ended.is_set():
                await run_to_end(_wait_for(ended), deadline_s=2 * _NOTICE_S)

    async def open(
        self, op: str, path: str, body: Json | None, sandbox_id: str
    ) -> tuple[ByteStream, bytes]:
        """POST to `path` (without the version) and take over the connection."""
        endpoint, api = await self._connect()
        with map_errors(op, self.host, sandbox_id):
            return await hijack(endpoint, f"/v{api.api_version}{path}", body, deadline_s=CALL_S)

    async def info(self) -> Json:
        """What the engine says of itself; asked again after a minute."""
        if self._info is None or self._info[0] < time.monotonic():
            said = await self.call("info", lambda api: api.info())
            self._info = time.monotonic() + _INFO_S, said
        return self._info[1]

    async def _connect(self) -> tuple[Endpoint, Api]:
        if self._connected is not None:
            return self._connected
        async with self._connecting:
            if self._connected is None:
                self._connected = await self._connect_once()
            return self._connected

    async def _connect_once(self) -> tuple[Endpoint, Api]:
        try:
            endpoint = await to_thread.run_sync(
                resolve, self._host, self._context, limiter=self._threads
            )
        except ImportError as error:
            raise ProviderNotInstalledError(
                f"The Docker provider needs the package `docker`: {INSTALL_HINT}",
                provider="docker",
            ) from error
        with map_errors("connect", endpoint.host), anyio.fail_after(CALL_S):
            if endpoint.parts.scheme == "unix":  # docker-py leaks the socket of a failed attempt
                await (await connect(endpoint)).aclose()
            api = await to_thread.run_sync(
                _client, endpoint, abandon_on_cancel=True, limiter=self._threads
            )
        return endpoint, api

    async def aclose(self) -> None:
        """Close the idle connections. Connections in use are not touched."""
        if self._connected is not None:
            (_endpoint, api), self._connected = self._connected, None
            await run_to_end(to_thread.run_sync(api.close), deadline_s=CALL_S)


async def _wait_for(event: threading.Event) -> None:
    await to_thread.run_sync(event.wait, _NOTICE_S)


def _client(endpoint: Endpoint) -> Api:
    """A client that speaks the engine's version of the API; asks the engine for it."""
    from docker import APIClient
    from docker.errors import DockerException

    def client(version: str) -> APIClient:
        made = APIClient(
            base_url=endpoint.host,
            version=version,
            timeout=_SILENCE_S,
            tls=endpoint.tls if endpoint.tls is not None else False,
            use_ssh_client=True,
            max_pool_size=_THREADS + _LONG_THREADS,
        )
        made.trust_env = False  # no proxy, and no other authorities than the engine's
        return made

    try:
        asking = client(_ANY_VERSION)
    except DockerException as error:
        if "paramiko" in str(error):
            raise ProviderNotInstalledError(
                'An engine behind ssh:// needs one more package: pip install "docker[ssh]"',
                provider="docker",
            ) from error
        raise
    with contextlib.closing(asking):
        version: str = asking.version(api_version=False)["ApiVersion"]
    return cast("Api", client(version))
