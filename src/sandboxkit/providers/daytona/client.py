"""The way to the service: who we are there, one client of the SDK per event loop, deadlines."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar

import anyio
import anyio.to_thread

from sandboxkit.concurrency import cancel_and_wait
from sandboxkit.errors import AuthenticationError
from sandboxkit.providers.daytona.failures import PROVIDER, map_errors

if TYPE_CHECKING:
    from aiohttp import ClientSession
    from daytona import AsyncDaytona

T = TypeVar("T")

DEFAULT_URL: Final = "https://app.daytona.io/api"
CALL_S: Final = 30.0
_CLOSE_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Access:
    """Where the service is, and who asks.

    Attributes:
        url: Of the API, with its `/api`.
        target: The region; None is the organization's own.
        api_key: A key, or None.
        jwt_token: A token in its place, which needs `organization_id`.
        organization_id: See `jwt_token`.
    """

    url: str
    target: str | None
    api_key: str | None = field(repr=False)
    jwt_token: str | None = field(repr=False)
    organization_id: str | None

    @classmethod
    def of(cls, url: str | None, target: str | None, api_key: str | None) -> Access:
        """What is given, completed from the SDK's variables; never from a file."""
        look = os.environ.get
        return cls(
            url=url or look("DAYTONA_API_URL") or look("DAYTONA_SERVER_URL") or DEFAULT_URL,
            target=target or look("DAYTONA_TARGET") or None,
            api_key=api_key or look("DAYTONA_API_KEY") or None,
            jwt_token=look("DAYTONA_JWT_TOKEN") or None,
            organization_id=look("DAYTONA_ORGANIZATION_ID") or None,
        )

    @property
    def complete(self) -> bool:
        """Whether there is something to sign in with."""
        return bool(self.api_key or (self.jwt_token and self.organization_id))

    def digest(self) -> str:
        """What tells this account from others, without telling its key."""
        word = "\0".join((self.url, self.api_key or "", self.organization_id or ""))
        return hashlib.sha256(word.encode()).hexdigest()[:16]

    def headers(self) -> dict[str, str]:
        """What a request of our own needs to be let in."""
        headers = {"Authorization": f"Bearer {self.api_key or self.jwt_token}"}
        if not self.api_key and self.organization_id:
            headers["X-Daytona-Organization-ID"] = self.organization_id
        return headers


class _Loop:
    """What belongs to one event loop: none of it can be used from another."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.sdk: AsyncDaytona | None = None
        self.http: ClientSession | None = None
        self.tasks: set[asyncio.Task[None]] = set()


class Client:
    """Calls the SDK, each time with a deadline, and turns its errors into ours."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self._loops: dict[asyncio.AbstractEventLoop, _Loop] = {}

    async def call(
        self,
        op: str,
        work: Callable[[AsyncDaytona], Awaitable[T]],
        *,
        deadline_s: float = CALL_S,
        sandbox_id: str | None = None,
    ) -> T:
        """Do one thing at the service.

        Raises:
            SandboxError: What went wrong, as `failures` tells it.
        """
        sdk = await self.ready()
        with map_errors(op, self.access.url, sandbox_id), anyio.fail_after(deadline_s):
            return await work(sdk)

    async def http(self) -> ClientSession:
        """A session for what the SDK does not do well enough: the log stream."""
        mine = self._mine()
        if mine.http is None:
            await self.ready()  # aiohttp has been imported then, off the loop
            from aiohttp import ClientSession

            mine.http = ClientSession(trust_env=True, headers=self.access.headers())
        return mine.http

    def background(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something that nobody waits for, until `aclose`."""
        tasks = self._mine().tasks
        task = asyncio.ensure_future(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def aclose(self) -> None:
        """Let go of all connections of this loop."""
        mine = self._loops.pop(asyncio.get_running_loop(), None)
        if mine is None:
            return
        if mine.tasks:
            await asyncio.wait(mine.tasks, timeout=_CLOSE_S)
            await cancel_and_wait(*mine.tasks)
        with anyio.move_on_after(2 * _CLOSE_S, shield=True), contextlib.suppress(Exception):
            if mine.http is not None:
                await mine.http.close()
            if mine.sdk is not None:
                await mine.sdk.close()  # type: ignore[no-untyped-call]

    def _mine(self) -> _Loop:
        loop = asyncio.get_running_loop()
        if loop not in self._loops:  # nothing can be closed any more on one that has ended
            self._loops = {each: its for each, its in self._loops.items() if not each.is_closed()}
            self._loops[loop] = _Loop()
        return self._loops[loop]

    async def ready(self) -> AsyncDaytona:
        """The SDK's client of this loop, made at the first call."""
        mine = self._mine()
        if mine.sdk is not None:
            return mine.sdk
        if not self.access.complete:
            raise AuthenticationError(
                "There is nothing to sign in to Daytona with. Set DAYTONA_API_KEY, or "
                "DAYTONA_JWT_TOKEN and DAYTONA_ORGANIZATION_ID.",
                provider=PROVIDER,
            )
        async with mine.lock:
            if mine.sdk is None:
                # In a thread: the import takes seconds, and the constructor reads files.
                with map_errors("connect", self.access.url):
                    mine.sdk = await anyio.to_thread.run_sync(_connect, self.access)
        return mine.sdk


def _connect(access: Access) -> AsyncDaytona:
    from daytona import AsyncDaytona, DaytonaConfig

    class Hermetic(AsyncDaytona):
        """Takes no region from a `.env` of whatever directory the program runs in.

        The SDK looks there for what it has not been given; a key and an address always
        are, but None is what asks for the organization's own region.
        """

        _target = property(lambda _self: access.target, lambda _self, _value: None)  # pyright: ignore[reportAssignmentType]

    config = DaytonaConfig(
        api_key=access.api_key,
        api_url=access.url,
        target=access.target,
        jwt_token=None if access.api_key else access.jwt_token,
        organization_id=None if access.api_key else access.organization_id,
        connection_pool_maxsize=None,
        use_deprecated_polling=False,
    )
    return Hermetic(config)
