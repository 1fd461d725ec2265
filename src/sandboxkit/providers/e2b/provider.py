"""The verbs on E2B."""

from __future__ import annotations

import math
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from sandboxkit.concurrency import run_to_end
from sandboxkit.errors import ImageError, SandboxNotFoundError, UnsupportedError
from sandboxkit.providers.base import (
    Capabilities,
    Credentials,
    Difference,
    Effective,
    SandboxInfo,
    SandboxProvider,
)
from sandboxkit.providers.e2b.account import CALL_S, INSTALL_HINT, Account
from sandboxkit.providers.e2b.failures import PROVIDER
from sandboxkit.providers.e2b.handle import (
    MARGIN_S,
    PORTS_LABEL,
    SNAPSHOT_PREFIX,
    E2BHandle,
    described,
)
from sandboxkit.providers.e2b.templates import (
    E2B_BASE,
    NAMED,
    Recipe,
    Templates,
    put_at_start,
)
from sandboxkit.providers.remembered import EFFECTIVE_LABEL, remember
from sandboxkit.spec import OWNER_LABEL, SandboxSpec

if TYPE_CHECKING:
    from e2b import AsyncSandbox
    from e2b import SandboxInfo as Found

GUEST_USER: Final = "root"
USER: Final = "user"  # of every template of E2B's
_PLATFORM: Final = "linux-x86_64"
_CREATE_S: Final = 60.0
_BEFORE_LEASE_S: Final = 20.0  # from a machine's start until its lease is first renewed
_PAGE: Final = 100
_MIN_MEMORY_MIB: Final = 128
# The SDK puts an id into a URL as it is.
_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")


class E2BProvider(SandboxProvider):
    """Firecracker machines in E2B's cloud, or in one that speaks its protocol.

    Args:
        api_key: The account's key; None is `E2B_API_KEY`.
        domain: Of the service; None is `E2B_DOMAIN`, else E2B's cloud.
        api_url: Where the API is; None is `E2B_API_URL`, else by the domain.
        sandbox_url: Where all sandboxes are reached; None is `E2B_SANDBOX_URL`, else by
            the domain.
        template: What sandboxes are made from where a spec names no image.
        creates_per_s: How many sandboxes a second the plan lets the account create; 1
            is that of Hobby, Pro has 5 (e2b.dev/docs/sandbox/rate-limits, 2026-11).
        concurrent: How many it lets it have at once: 20 on Hobby, 100 on Pro (the same).
    """

    name: ClassVar[str] = PROVIDER
    interface_version: ClassVar[int] = 1
    packages: ClassVar[tuple[str, ...]] = ("e2b",)
    install_hint: ClassVar[str] = INSTALL_HINT

    def __init__(
        self,
        *,
        api_key: str | None = None,
        domain: str | None = None,
        api_url: str | None = None,
        sandbox_url: str | None = None,
        template: str = E2B_BASE,
        creates_per_s: float | None = 1.0,
        concurrent: int | None = 20,
    ) -> None:
        self._account = Account(api_key, domain, api_url, sandbox_url)
        self._templates = Templates(self._account)
        self._template = template
        self._creates_per_s, self._concurrent = creates_per_s, concurrent

    def credentials(self) -> Credentials:
        """Whether there is a key; asks nobody."""
        return self._account.credentials()

    def account(self) -> str:
        """A digest of the key and of where it counts."""
        return self._account.digest()

    def capabilities(self) -> Capabilities:
        """What E2B can do, on any plan."""
        return Capabilities(
            isolation="microvm",
            limits=frozenset({"memory_gib"}),
            limits_at_create=frozenset({"cpu"}),  # whole ones only
            network=frozenset({"none", "open"}),
            images=True,
            lifetime=True,
            renew=True,
            artifacts=True,
            guest_user=GUEST_USER,
            pause=True,
            snapshot=True,
            expose=True,
            extend=True,
            creates_per_s=self._creates_per_s,
            concurrent=self._concurrent,
        )

    async def prepare(self, spec: SandboxSpec) -> None:
        """Build the template, where the spec asks for one that does not exist yet."""
        planned = plan(spec, self._template)
        if planned.recipe is not None:
            await self._templates.ready(planned.recipe)

    async def create(self, spec: SandboxSpec) -> E2BHandle:
        """Create a sandbox; see `SandboxProvider.create`."""
        planned = plan(spec, self._template)
        if planned.recipe is None:
            return await self._create(spec, planned, planned.image.removeprefix(NAMED))
        name = await self._templates.ready(planned.recipe)
        try:
            return await self._create(spec, planned, name)
        except ImageError:  # the name exists, but its build failed, or was given up
            if not self._templates.forget(name):
                raise
        name = await self._templates.ready(planned.recipe)
        return await self._create(spec, planned, name)

    async def _create(self, spec: SandboxSpec, planned: Plan, template: str) -> E2BHandle:
        labels = {
            **spec.labels,
            EFFECTIVE_LABEL: remember(planned.effective, planned.differences),
            PORTS_LABEL: " ".join(map(str, spec.ports)),
        }
        sandbox: AsyncSandbox = await self._account.call(
            "create",
            lambda e2b: e2b.AsyncSandbox.create(
                template,
                timeout=math.ceil(spec.lease_s + _BEFORE_LEASE_S),
                metadata=labels,
                allow_internet_access=planned.effective.network == "open",
                network={"allow_public_traffic": False},
                lifecycle={"on_timeout": "kill", "auto_resume": False},
                idempotency_key=spec.key,
                retries=0,  # sandboxkit waits for its turn itself, where it can be cancelled
                request_timeout=_CREATE_S,
            ),
            deadline_s=_CREATE_S,
            about=planned.image,
        )
        try:
            found = await self._found("create", sandbox.sandbox_id)
            handle = E2BHandle(self._account, found, sandbox)
            if (line := put_at_start(spec.artifacts)) is not None:
                await handle.run_as_root(line)
            return handle
        except BaseException:
            await run_to_end(self._kill(sandbox.sandbox_id), deadline_s=CALL_S + MARGIN_S)
            raise

    async def _kill(self, sandbox_id: str) -> None:
        await self._account.call(
            "create", lambda e2b: e2b.AsyncSandbox.kill(sandbox_id), sandbox_id=sandbox_id
        )

    async def _found(self, op: str, sandbox_id: str) -> Found:
        return await self._account.call(
            op, lambda e2b: e2b.AsyncSandbox.get_info(sandbox_id), sandbox_id=sandbox_id
        )

    async def attach(self, sandbox_id: str) -> E2BHandle:
        """Take up a sandbox of ours; a paused one stays paused until `resume`."""
        if not _ID.fullmatch(sandbox_id):
            raise _not_found(sandbox_id, "This is no id of a sandbox at E2B")
        found = await self._found("attach", sandbox_id)
        if OWNER_LABEL not in found.metadata:
            raise _not_found(sandbox_id, "This sandbox was not made by sandboxkit")
        return E2BHandle(self._account, found)

    async def list(self, labels: Mapping[str, str]) -> AsyncIterator[SandboxInfo]:
        """All sandboxes of ours with these labels, paused ones too."""
        client = await self._account.client()
        from e2b import SandboxQuery

        query = SandboxQuery(metadata=dict(labels))
        pages = client.AsyncSandbox.list(query=query, limit=_PAGE)
        while pages.has_next:
            for found in await self._account.call("list", lambda _e2b: pages.next_items()):
                if OWNER_LABEL in found.metadata and labels.items() <= found.metadata.items():
                    yield described(found)

    async def remove_snapshot(self, image: str) -> None:
        """Remove what `snapshot` returned; see `SandboxProvider.remove_snapshot`."""
        name = image.removeprefix(NAMED)
        if not image.startswith(NAMED) or not name.rpartition("/")[2].startswith(SNAPSHOT_PREFIX):
            raise UnsupportedError(
                f"{image!r} is no snapshot that sandboxkit made at E2B: it is left alone.",
                op="remove_snapshot",
                provider=PROVIDER,
            )
        await self._account.call(
            "remove_snapshot", lambda e2b: e2b.AsyncSandbox.delete_snapshot(name)
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be applied.

    Attributes:
        image: The spec's image, or the default.
        recipe: The template to build for it; None where `image` names one that will do.
        effective: What is known before E2B has told its part.
        differences: All wishes that E2B may not fulfil: `described` sorts them out.
    """

    image: str
    recipe: Recipe | None
    effective: Effective
    differences: tuple[Difference, ...]


def plan(spec: SandboxSpec, template: str) -> Plan:
    """Decide what to ask E2B for. Nothing has been created yet.

    Args:
        spec: What is wished.
        template: The default.

    Raises:
        UnsupportedError: The spec demands what E2B cannot do.
    """
    limits = spec.resources
    image = spec.image or f"{NAMED}{template}"
    cpu = math.ceil(limits.cpu)
    memory_mib = max(_MIN_MEMORY_MIB, 2 * math.ceil(limits.memory_gib * 512))
    possible = {"cpu": cpu == limits.cpu, "memory_gib": memory_mib == limits.memory_gib * 1024}
    reasons = {
        "cpu": "an E2B template has whole CPUs, which are chosen when it is built",
        "memory_gib": f"an E2B template has an even number of MiB, at least {_MIN_MEMORY_MIB}, "
        "which is chosen when it is built",
        "disk_gib": "E2B's plan decides on the disk",
        "pids": "E2B does not limit processes",
    }
    demanded = [name for name in possible if spec.demands(f"resources.{name}")]
    for name in demanded:
        if spec.strict and not possible[name]:
            raise UnsupportedError(
                f"resources.{name}={getattr(limits, name)!r} cannot be had: {reasons[name]}; "
                "strict=False takes what there is instead",
                op="create",
                provider=PROVIDER,
            )
    for artifact in spec.artifacts:
        if artifact.platform != _PLATFORM:
            raise UnsupportedError(
                f"The artifact {artifact.name} is for {artifact.platform}, but E2B's machines "
                f"are {_PLATFORM}. Bring the file for that platform.",
                op="create",
                provider=PROVIDER,
            )
    building = demanded or spec.artifacts or not image.startswith(NAMED)
    return Plan(
        image=image,
        recipe=Recipe(image, cpu, memory_mib, spec.artifacts) if building else None,
        effective=Effective(
            image=image,
            network=spec.network.mode,
            user=spec.user or USER,
            workdir=spec.workdir,
            isolation="microvm",
        ),
        differences=tuple(
            Difference(f"resources.{name}", getattr(limits, name), None, reason)
            for name, reason in reasons.items()
        ),
    )


def _not_found(sandbox_id: str, what: str) -> SandboxNotFoundError:
    return SandboxNotFoundError(
        f"{what}: {sandbox_id[:128]!r}.",
        op="attach",
        provider=PROVIDER,
        sandbox_id=sandbox_id,
        retryable=False,
    )
