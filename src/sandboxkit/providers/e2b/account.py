"""One account at E2B: its client, and the one way in which calls are made."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import hashlib
import os
import time
from collections.abc import Awaitable, Callable
from functools import cache
from typing import TYPE_CHECKING, Final, TypeVar

import anyio
import anyio.to_thread

from sandboxkit.concurrency import cancel_and_wait, run_to_end
from sandboxkit.errors import ProviderNotInstalledError
from sandboxkit.providers.base import Credentials
from sandboxkit.providers.e2b.failures import map_errors

if TYPE_CHECKING:
    from e2b import E2B

T = TypeVar("T")

INSTALL_HINT: Final = 'pip install "sandboxkit[e2b]"'
CALL_S: Final = 30.0
_GRACE_S: Final = 5.0  # what the SDK's own deadline may be late by
_SETTLE_S: Final = 0.5


class Account:
    """One account; two of them may be used in one process.

    Args:
        api_key: Its key; None is `E2B_API_KEY`.
        domain: Of the service; None is `E2B_DOMAIN`, else E2B's cloud.
        api_url: Where the API is; None is `E2B_API_URL`, else by the domain.
        sandbox_url: Where all sandboxes are reached; None is `E2B_SANDBOX_URL`, else by
            the domain.
    """

    def __init__(
        self,
        api_key: str | None,
        domain: str | None,
        api_url: str | None,
        sandbox_url: str | None,
    ) -> None:
        self._api_key, self._domain = api_key, domain
        self._api_url, self._sandbox_url = api_url, sandbox_url
        self._client: E2B | None = None

    @property
    def sandbox_url(self) -> str | None:
        """The one address of all sandboxes, which are then told apart by headers."""
        return self._sandbox_url or os.environ.get("E2B_SANDBOX_URL") or None

    def credentials(self) -> Credentials:
        """Whether there is a key; asks nobody."""
        if self._api_key:
            return Credentials(found=True, said="the argument api_key")
        if os.environ.get("E2B_API_KEY"):
            return Credentials(found=True, said="E2B_API_KEY")
        return Credentials(found=False, said="set E2B_API_KEY: https://e2b.dev/dashboard?tab=keys")

    def digest(self) -> str:
        """What tells this account from others; the key cannot be had from it."""
        key = self._api_key or os.environ.get("E2B_API_KEY", "")
        place = self._api_url or os.environ.get("E2B_API_URL") or self._domain
        return hashlib.sha256(f"{place} {key}".encode()).hexdigest()[:16]

    async def call(
        self,
        op: str,
        work: Callable[[E2B], Awaitable[T]],
        *,
        deadline_s: float = CALL_S,
        sandbox_id: str | None = None,
        about: str = "",
    ) -> T:
        """Do something with the client.

        Args:
            op: What it is, such as `create`.
            work: Makes the call.
            deadline_s: How long it may take; the SDK must have been told no less.
            sandbox_id: The sandbox that it is about.
            about: The image that it is about, for messages.

        Raises:
            SandboxError: It failed; see `failures`.
        """
        with map_errors(op, sandbox_id, about):
            client = await self.client()
            with anyio.fail_after(deadline_s + _GRACE_S):
                return await _cancellable(work(client))

    async def client(self) -> E2B:
        """The client; its package is imported in a thread, which takes a second."""
        if self._client is None:
            self._client = await anyio.to_thread.run_sync(self._make)
        return self._client

    def _make(self) -> E2B:
        try:
            from e2b import E2B
        except ModuleNotFoundError as error:
            if error.name != "e2b":
                raise
            raise ProviderNotInstalledError(
                f"E2B needs the package 'e2b': {INSTALL_HINT}", provider="e2b"
            ) from error
        settle_at_exit()
        _open_pools()
        return E2B(
            api_key=self._api_key,
            domain=self._domain,
            api_url=self._api_url,
            sandbox_url=self._sandbox_url,
            debug=False,  # E2B_DEBUG makes the SDK skip creation and destruction
            request_timeout=CALL_S,
        )


def _open_pools() -> None:
    """Make the SDK's two pools of connections, which all its clients share.

    Each reads the system's certificates, and the first one imports OpenTelemetry where that
    is installed: up to 30 ms, which a first call would take on the event loop.
    """
    from e2b import ConnectionConfig
    from e2b.api.client_async import get_transport

    for for_streaming in (False, True):
        get_transport(ConnectionConfig(), for_streaming=for_streaming)


async def _cancellable(work: Awaitable[T]) -> T:
    """Await what the SDK does, so that a cancellation always reaches the caller.

    When it comes together with the answer, the SDK's HTTP runtime drops it, and whoever
    was to be stopped would go on. So it has a task to itself, and the caller is told.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task})
    except asyncio.CancelledError:
        with contextlib.suppress(TimeoutError):
            await run_to_end(cancel_and_wait(task), deadline_s=_GRACE_S)
        raise
    return task.result()


@cache
def settle_at_exit() -> None:
    """Let the SDK's HTTP runtime come to rest before the interpreter ends.

    Its threads (pyqwest, in Rust) may call into Python for a moment after the last
    stream was closed; an interpreter that is ending meanwhile aborts with SIGABRT.
    """
    atexit.register(time.sleep, _SETTLE_S)
