"""The five verbs on Daytona."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Mapping
from importlib.util import find_spec
from typing import ClassVar, Final

from sandboxkit.concurrency import run_to_end
from sandboxkit.errors import (
    ImageError,
    SandboxError,
    SandboxNotFoundError,
    UnsupportedError,
)
from sandboxkit.providers.base import (
    Capabilities,
    Credentials,
    Effective,
    SandboxInfo,
    SandboxProvider,
)
from sandboxkit.providers.daytona.client import Access, Client
from sandboxkit.providers.daytona.failures import PROVIDER, status_of
from sandboxkit.providers.daytona.handle import DaytonaHandle
from sandboxkit.providers.daytona.images import Images
from sandboxkit.providers.daytona.plan import (
    ARTIFACTS_LABEL,
    OURS,
    SNAPSHOT,
    Offer,
    artifacts_mark,
    describe,
    ends_at,
    ttl_minutes,
    wishes,
)
from sandboxkit.providers.daytona.v0 import CREATE_S, DESTROY_S, Machine, Order, Service, Size
from sandboxkit.providers.remembered import EFFECTIVE_LABEL, remember
from sandboxkit.spec import KEY_LABEL, OWNER_LABEL, SandboxSpec

log = logging.getLogger(__name__)

_TAKES_S: Final = CREATE_S + 30.0  # what a create may take, the first connection included
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")


class DaytonaProvider(SandboxProvider):
    """Sandboxes at Daytona.

    Args:
        api_key: The key; None is `DAYTONA_API_KEY`, or `DAYTONA_JWT_TOKEN` with
            `DAYTONA_ORGANIZATION_ID`. No file is ever read for it.
        api_url: The API; None is `DAYTONA_API_URL`, or the public service.
        target: The region, such as `us`; None is `DAYTONA_TARGET`, or the
            organization's own.
        base_image: What is built on where a spec has artifacts and names no image: with
            Python 3.8, a shell and coreutils. None is Debian with Python, git, curl and
            ripgrep, and a user `daytona`.
        default_size: Cores, GiB of memory, GiB of disk of the default snapshot.
        largest: The most that the account gives one sandbox, likewise.
        creates_per_s: How many sandboxes a second the account may create (tier 1: 300 a
            minute, by Daytona's page on limits, June 2026).
        concurrent: How many it may have at once; None is no limit that is known.
    """

    name: ClassVar[str] = PROVIDER
    interface_version: ClassVar[int] = 1
    packages: ClassVar[tuple[str, ...]] = ("daytona",)
    install_hint: ClassVar[str] = 'pip install "sandboxkit[daytona]"'

    def __init__(
        self,
        *,
        api_key: str | None = None,
        api_url: str | None = None,
        target: str | None = None,
        base_image: str | None = None,
        default_size: tuple[int, int, int] = (1, 1, 3),
        largest: tuple[int, int, int] = (4, 8, 10),
        creates_per_s: float | None = 5.0,
        concurrent: int | None = None,
    ) -> None:
        self._access = Access.of(api_url, target, api_key)
        self._client = Client(self._access)
        self._service = Service(self._client)
        self._images = Images(self._service)
        self._offer = Offer(base_image, Size(*default_size), Size(*largest))
        self._creates_per_s = creates_per_s
        self._concurrent = concurrent
        self._people: dict[tuple[str | None, str | None], tuple[str, str]] = {}

    @classmethod
    def missing(cls) -> str | None:
        """What must be installed; the SDK's deprecated twin does not do."""
        said = super().missing()
        if said is not None and find_spec("daytona_sdk") is not None:
            return (
                "it needs the package 'daytona'; only its deprecated twin 'daytona-sdk' is "
                f"installed, which gets no new versions: {cls.install_hint}"
            )
        return said

    def credentials(self) -> Credentials:
        """Where they come from; asks nobody."""
        if self._access.api_key:
            return Credentials(found=True, said="an API key (api_key or DAYTONA_API_KEY)")
        if self._access.complete:
            return Credentials(found=True, said="DAYTONA_JWT_TOKEN and DAYTONA_ORGANIZATION_ID")
        said = "set DAYTONA_API_KEY, or DAYTONA_JWT_TOKEN and DAYTONA_ORGANIZATION_ID"
        return Credentials(found=False, said=said)

    def account(self) -> str:
        """A digest of the key and of where it counts."""
        return self._access.digest()

    def capabilities(self) -> Capabilities:
        """What version 0 of the service can do."""
        return Capabilities(
            isolation="container",
            limits_at_create=frozenset({"cpu", "memory_gib", "disk_gib"}),
            network=frozenset({"none", "open"}),
            images=True,
            lifetime=True,
            renew=True,
            artifacts=True,
            snapshot=True,
            expose=True,
            extend=True,
            creates_per_s=self._creates_per_s,
            concurrent=self._concurrent,
        )

    async def prepare(self, spec: SandboxSpec) -> None:
        """Build the snapshot that the spec needs, where that is to do."""
        await self._snapshot(spec)

    async def _snapshot(self, spec: SandboxSpec) -> str | None:
        """What the sandbox starts from, ready; None is the default snapshot."""
        build = self._offer.build(spec)
        if build is not None:
            return await self._images.built(build)
        if spec.image is None:
            self._offer.check(spec, self._offer.default)
            return None
        found = await self._images.existing(spec.image.removeprefix(SNAPSHOT))
        self._offer.check(spec, found.size)
        return found.name

    async def create(self, spec: SandboxSpec) -> DaytonaHandle:
        """Create a sandbox, under the name `spec.key`; see `SandboxProvider.create`."""
        order = _order(spec, await self._snapshot(spec))
        try:
            machine = await self._service.create(order)
            person = await self._person(machine, spec.user)
            self._verify(spec, machine, person[0])
        except BaseException as error:
            if status_of(error) != 409:  # the name is taken: what has it is not of this call
                await run_to_end(self._clean_up(order.name), deadline_s=DESTROY_S)
            clearer = _clearer(error, spec)
            if clearer is None:
                raise
            raise clearer from error
        return DaytonaHandle(machine, describe(machine, person))

    async def _person(self, machine: Machine, wanted: str | None) -> tuple[str, str]:
        """Who everything in a sandbox runs as; the same for all of one snapshot."""
        kind = machine.snapshot, wanted
        if kind not in self._people:
            self._people[kind] = await machine.person()
        return self._people[kind]

    def _verify(self, spec: SandboxSpec, machine: Machine, user: str) -> None:
        """See that what the service has made is what was asked for."""
        self._offer.check(spec, machine.size)
        wrong = None
        if spec.network.mode != "open" and not machine.blocked:
            wrong = f"network={spec.network.mode!r}"
        if spec.user not in {None, user}:
            wrong = f"user={spec.user!r}"
        if wrong is not None and spec.strict:
            raise UnsupportedError(
                f"{wrong} cannot be had: Daytona has made the sandbox without it",
                op="create",
                provider=PROVIDER,
            )

    async def _clean_up(self, name: str) -> None:
        try:
            await self._service.remove(name)
        except SandboxError:
            log.warning("the sandbox %s of a failed create may be left", name, exc_info=True)

    async def attach(self, sandbox_id: str) -> DaytonaHandle:
        """Take up a living sandbox of ours; see `SandboxProvider.attach`."""
        if not _ID.fullmatch(sandbox_id):
            raise _not_found(sandbox_id, "There is no sandbox of this id")
        try:
            machine = await self._service.get(sandbox_id)
        except SandboxNotFoundError as error:
            raise _not_found(sandbox_id, "There is no sandbox of this id") from error
        if OWNER_LABEL not in machine.labels:
            raise _not_found(sandbox_id, "This sandbox was not made by sandboxkit")
        if machine.state == "stopped":
            raise _not_found(sandbox_id, "This sandbox has been stopped")
        person = await self._person(machine, None) if machine.state == "running" else None
        return DaytonaHandle(machine, describe(machine, person))

    async def destroy(self, sandbox_id: str) -> None:
        """Destroy a sandbox of ours, a stopped one too; see `SandboxProvider.destroy`."""
        try:
            machine = await self._service.get(sandbox_id)
        except SandboxNotFoundError:
            return
        if OWNER_LABEL not in machine.labels:
            raise _not_found(sandbox_id, "This sandbox was not made by sandboxkit")
        await machine.remove()

    async def list(self, labels: Mapping[str, str]) -> AsyncIterator[SandboxInfo]:
        """All sandboxes of ours with these labels; see `SandboxProvider.list`."""
        key = labels.get(KEY_LABEL)
        if key is not None:  # by its name it is found at once, by labels only after a while
            try:
                found = [await self._service.get(key)]
            except SandboxNotFoundError:
                return
        else:
            found = [each async for each in self._service.find(labels)]
        for machine in found:
            if OWNER_LABEL in machine.labels and labels.items() <= machine.labels.items():
                yield describe(machine)

    async def remove_snapshot(self, image: str) -> None:
        """Remove a snapshot of ours; see `SandboxProvider.remove_snapshot`."""
        name = image.removeprefix(SNAPSHOT)
        if not (image.startswith(SNAPSHOT) and name.startswith(OURS)):
            raise UnsupportedError(
                f"{image!r} is no snapshot of sandboxkit's: those are {SNAPSHOT}{OURS}...",
                op="remove_snapshot",
                provider=PROVIDER,
            )
        await self._service.remove_snapshot(name)

    async def aclose(self) -> None:
        """Close the connections of this event loop."""
        await self._client.aclose()


def _order(spec: SandboxSpec, snapshot: str | None) -> Order:
    remembered = Effective(
        image=spec.image,
        network=spec.network.mode,
        workdir=spec.workdir if spec.demands("workdir") else None,
    )
    labels = {**spec.labels, EFFECTIVE_LABEL: remember(remembered, wishes(spec))}
    if spec.artifacts:
        labels[ARTIFACTS_LABEL] = artifacts_mark(spec.artifacts)
    return Order(
        name=spec.key,
        snapshot=snapshot,
        user=spec.user,
        labels=labels,
        blocked=spec.network.mode != "open",
        ttl_minutes=ttl_minutes(spec.lease_s + _TAKES_S, ends_at(spec.labels)),
    )


def _clearer(error: BaseException, spec: SandboxSpec) -> SandboxError | None:
    """What the service's words about a failed create mean for who wrote the spec."""
    if not isinstance(error, SandboxError):
        return None
    if status_of(error) in {400, 404} and "snapshot" in error.message.lower():
        image = spec.image or "The default snapshot"
        kind: type[SandboxError] = ImageError
        message = f"{image} cannot be had: {error.message}"
    elif spec.user is not None and "error state" in error.message:
        kind = UnsupportedError
        message = f"user={spec.user!r} cannot be had: the sandbox does not start with it"
    else:
        return None
    return kind(message, op="create", provider=PROVIDER, retryable=False)


def _not_found(sandbox_id: str, what: str) -> SandboxNotFoundError:
    return SandboxNotFoundError(
        f"{what}: {sandbox_id[:100]}.",
        op="attach",
        provider=PROVIDER,
        sandbox_id=sandbox_id,
        retryable=False,
    )
