"""How the machine under a `Sandbox` is made, connected and ended."""

from __future__ import annotations

import contextlib
import functools
import logging
import re
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

import anyio

from sandboxkit.channel.client import GuestClient
from sandboxkit.channel.fallback import NO_GUEST, Fallback, refuse
from sandboxkit.channel.files import Files
from sandboxkit.channel.greeting import NoGuestError
from sandboxkit.concurrency import obtain, run_to_end
from sandboxkit.errors import (
    InvalidSpecError,
    OperationTimeoutError,
    ProviderUnavailableError,
    SandboxError,
    SandboxNotFoundError,
    UnsupportedError,
)
from sandboxkit.journal import Entry, journal
from sandboxkit.keeper import Keeper
from sandboxkit.places import Place
from sandboxkit.progress import Progress, report
from sandboxkit.providers.base import (
    Capabilities,
    Difference,
    SandboxHandle,
    SandboxInfo,
    SandboxProvider,
)
from sandboxkit.providers.registry import providers
from sandboxkit.spec import KEY_LABEL, Artifact, SandboxSpec

log = logging.getLogger(__name__)

DESTROY_S = 60.0
_CREATE_S = 120.0
_LOOK_AGAIN_S = (0.0, 1.0)
_SNAPSHOT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,62}")


class Closable(Protocol):
    """What an `Opening` closes."""

    async def aclose(self) -> None:
        """Let go."""


T = TypeVar("T", bound=Closable)


class Opening(Generic[T]):
    """What `create` and `attach` return: await it, or use it as `async with`."""

    def __init__(self, opening: Awaitable[T]) -> None:
        self._opening = opening
        self._opened: T | None = None

    def __await__(self) -> Generator[Any, None, T]:
        return self._opening.__await__()

    async def __aenter__(self) -> T:
        self._opened = await self._opening
        return self._opened

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._opened is not None:
            await self._opened.aclose()


async def choose(
    chosen: str | SandboxProvider, undo: contextlib.AsyncExitStack
) -> tuple[SandboxProvider, bool]:
    """The provider, and whether it is ours to close."""
    if not isinstance(chosen, str):
        return chosen, False
    provider = await providers.obtain(chosen)
    undo.push_async_callback(finish, provider.aclose)
    return provider, True


async def finish(cleanup: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a cleanup to its end, whatever happens to the caller."""
    await run_to_end(cleanup(), deadline_s=DESTROY_S)


async def close(channel: GuestClient | Fallback, *, say_bye: bool, keep_s: float | None) -> None:
    """Close the way into a sandbox; see `GuestClient.aclose`."""
    if isinstance(channel, Fallback):
        await channel.aclose()
    else:
        await channel.aclose(say_bye=say_bye, keep_s=keep_s)


async def intended(
    provider: SandboxProvider, spec: SandboxSpec, undo: contextlib.AsyncExitStack
) -> Entry:
    """Say in the journal what the backend is about to be asked for."""
    entry = await journal().intend(
        provider.name, provider.account(), dict(spec.labels), spec.lease_s
    )
    undo.push_async_callback(finish, entry.release)
    return entry


async def taken_up(
    provider: SandboxProvider,
    handle: SandboxHandle,
    lease_s: float,
    undo: contextlib.AsyncExitStack,
) -> Entry:
    """Say in the journal that this process holds a sandbox that was there before.

    Raises:
        SandboxNotFoundError: It is just being removed.
    """
    entry = await journal().attached(provider.account(), handle.info, lease_s)
    undo.push_async_callback(finish, entry.release)
    return entry


async def made(provider: SandboxProvider, spec: SandboxSpec) -> SandboxHandle:
    """Create; what a lost or late answer may have left is looked for and removed."""
    try:
        return await obtain(
            provider.create(spec), release=lambda handle: handle.destroy(), deadline_s=_CREATE_S
        )
    except (OperationTimeoutError, ProviderUnavailableError):
        await _sweep(provider, spec.key)
        raise
    except TimeoutError as error:
        await _sweep(provider, spec.key)
        raise OperationTimeoutError(
            f"the backend did not create the sandbox within {_CREATE_S:g} s",
            op="create",
            provider=provider.name,
            retryable=True,
        ) from error


async def _sweep(provider: SandboxProvider, key: str) -> None:
    """Remove what a create that failed on the way may have made all the same."""
    try:
        await run_to_end(_remove(provider, key), deadline_s=DESTROY_S)
    except (SandboxError, TimeoutError):
        log.warning("it cannot be told whether the sandbox %s exists", key, exc_info=True)


async def _remove(provider: SandboxProvider, key: str) -> None:
    for pause_s in _LOOK_AGAIN_S:  # it may appear after its answer was lost
        await anyio.sleep(pause_s)
        async for info in provider.list({KEY_LABEL: key}):
            if info.labels.get(KEY_LABEL) != key:  # a plugin's mistake must not cost others theirs
                continue
            with contextlib.suppress(SandboxNotFoundError):
                await (await provider.attach(info.id)).destroy()
            return


async def connect(
    handle: SandboxHandle, user: str | None, spec: SandboxSpec, undo: contextlib.AsyncExitStack
) -> GuestClient | Fallback:
    """Connect with the guest, or fall back where the image cannot run it."""
    settings = _settings(spec, handle.info)
    client = GuestClient(handle, user=user, lease_s=spec.lease_s, settings=settings)
    channel: GuestClient | Fallback = client
    try:
        await client.open()
    except NoGuestError as error:
        channel = Fallback(handle, error.stream, spec.env, spec.workdir)
        await channel.check()
    undo.push_async_callback(finish, functools.partial(close, channel, say_bye=False, keep_s=None))
    return channel


def kept(
    handle: SandboxHandle,
    channel: GuestClient | Fallback,
    place: Place,
    entry: Entry,
    lease_s: float,
    *,
    can: Capabilities,
    undo: contextlib.AsyncExitStack,
) -> Keeper:
    """A keeper at work."""
    keeper = Keeper(*(handle, channel, place, entry, lease_s), renews=can.renew, extends=can.extend)
    keeper.start()
    undo.push_async_callback(finish, keeper.stop)
    return keeper


async def upload(artifacts: Sequence[Artifact], files: Files) -> None:
    """Bring artifacts to a backend that does not have them in its images."""
    for artifact in artifacts:
        total = (await anyio.Path(artifact.source).stat()).st_size
        step = f"upload {artifact.name} {artifact.version}"
        report(Progress(step, 0, total))
        await files.upload(artifact.source, artifact.target)
        report(Progress(step, total, total, finished=True))


def check_without_guest(spec: SandboxSpec, can: Capabilities) -> None:
    """Refuse what only the guest could keep.

    Raises:
        UnsupportedError: The spec demands it.
    """
    for field in ("lease_s", "idle_timeout_s", "lifetime_s"):
        enforced = field == "lifetime_s" and can.lifetime
        if spec.strict and spec.demands(field) and not enforced:
            refuse(f"{field}={getattr(spec, field)!r}")


def check_can(op: str, provider: SandboxProvider, sandbox_id: str) -> None:
    """Refuse what the backend does not claim.

    Raises:
        UnsupportedError: It cannot.
    """
    if not getattr(provider.capabilities(), op):
        raise UnsupportedError(
            f"{provider.name} cannot {op}", op=op, provider=provider.name, sandbox_id=sandbox_id
        )


def snapshot_name(name: str | None) -> str:
    """The name of a snapshot, checked; made up if there is none.

    Raises:
        InvalidSpecError: No backend takes it.
    """
    chosen = name if name is not None else f"sandboxkit-{secrets.token_hex(6)}"
    if not _SNAPSHOT_NAME.fullmatch(chosen):
        raise InvalidSpecError(f"{chosen!r} is not 1 to 63 letters, digits and '-'")
    return chosen


def described(
    info: SandboxInfo, channel: GuestClient | Fallback, differences: tuple[Difference, ...]
) -> SandboxInfo:
    """The info of a sandbox that is connected."""
    guest = isinstance(channel, GuestClient)
    if not guest:
        differences = (*differences, *NO_GUEST)
    told = {difference.field for difference in info.differences}  # by who knows more
    added = tuple(difference for difference in differences if difference.field not in told)
    return replace(info, state="running", guest=guest, differences=(*info.differences, *added))


def _settings(spec: SandboxSpec, info: SandboxInfo) -> dict[str, Any]:
    return {
        "user": spec.user or info.effective.user,
        "workdir": info.effective.workdir or spec.workdir,
        "env": dict(spec.env),
        "lifetime_s": spec.lifetime_s,
        "idle_timeout_s": spec.idle_timeout_s,
        "ports": list(spec.ports),
    }
