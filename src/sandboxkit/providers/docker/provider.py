"""The five verbs on Docker."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Mapping, MutableSequence
from datetime import UTC, datetime
from functools import partial
from typing import ClassVar, Final

from sandboxkit.concurrency import run_to_end
from sandboxkit.errors import ImageError, SandboxError, SandboxNotFoundError
from sandboxkit.providers.base import Capabilities, SandboxInfo, SandboxProvider
from sandboxkit.providers.docker import artifacts
from sandboxkit.providers.docker.api import Json
from sandboxkit.providers.docker.container import describe, plan, request
from sandboxkit.providers.docker.containers import look_at_main, remove
from sandboxkit.providers.docker.engine import INSTALL_HINT, Engine
from sandboxkit.providers.docker.failures import status_of
from sandboxkit.providers.docker.handle import GUEST_USER, DockerHandle
from sandboxkit.providers.docker.images import Image, Images
from sandboxkit.providers.docker.limits import has_quotas
from sandboxkit.providers.docker.stream import HijackedChannel
from sandboxkit.spec import OWNER_LABEL, SandboxSpec

log = logging.getLogger(__name__)

_CREATE_S: Final = 60.0
_STEP_S: Final = 30.0
_CLEAN_S: Final = 30.0
_ENDED: Final = frozenset({"exited", "dead", "removing"})
_ID: Final = 12  # digits of a container's id, as the docker command shows them
_NO_QUOTA: Final = re.compile(r"pquota|storage-opt|storage opt", re.IGNORECASE)


class DockerProvider(SandboxProvider):
    """Hardened containers on a Docker engine, local or remote.

    Args:
        host: The engine's address, as in `DOCKER_HOST`: `unix://`, `tcp://`, `ssh://`.
        context: The name of a docker context. Without either, the engine is found as
            the docker command finds it.
    """

    name: ClassVar[str] = "docker"
    interface_version: ClassVar[int] = 1
    packages: ClassVar[tuple[str, ...]] = ("docker",)
    install_hint: ClassVar[str] = INSTALL_HINT

    def __init__(self, *, host: str | None = None, context: str | None = None) -> None:
        self._engine = Engine(host, context)
        self._images = Images(self._engine)
        self._artifacts = artifacts.Artifacts(self._engine)
        self._quotas = True  # until a create has shown that xfs is mounted without

    def capabilities(self) -> Capabilities:
        """What any Docker engine can do; each create asks the engine itself."""
        return Capabilities(
            isolation="container",
            limits=frozenset({"cpu", "memory_gib", "pids"}),
            limits_at_create=frozenset({"disk_gib"}),
            network=frozenset({"none", "open"}),
            runtimes=True,
            images=True,
            artifacts=True,
            guest_user=GUEST_USER,
            pause=True,
        )

    async def prepare(self, spec: SandboxSpec) -> None:
        """Pull or build the image and fill the artifacts' volumes, where that is to do."""
        await self._planned(spec)

    async def _planned(self, spec: SandboxSpec) -> tuple[Image, Json]:
        info = await self._engine.info()
        image = await self._images.resolve(spec.image)
        artifacts.check(spec.artifacts, image)
        planned = plan(spec, image, info, quotas=self._quotas and has_quotas(info))
        volumes = await self._artifacts.volumes(spec.artifacts, image)
        return image, request(spec, image, planned, volumes)

    async def create(self, spec: SandboxSpec) -> DockerHandle:
        """Create a container; see `SandboxProvider.create`."""
        image, body = await self._planned(spec)
        made: list[DockerHandle] = []
        try:
            await run_to_end(self._create(body, spec.key, made), deadline_s=_CREATE_S)
        except BaseException as error:
            if status_of(error) != 409:  # the name is taken: what has it is not of this call
                await run_to_end(self._clean_up(spec.key, made), deadline_s=_CLEAN_S)
            if not self._has_learned(error, image):
                raise
        return made[0] if made else await self.create(spec)

    async def _clean_up(self, key: str, made: MutableSequence[DockerHandle]) -> None:
        try:
            await remove(self._engine, key)
        except SandboxError:
            log.warning("the container %s of a failed create may be left", key, exc_info=True)
        while made:
            await made.pop().aclose()

    def _has_learned(self, error: BaseException, image: Image) -> bool:
        """Whether what was believed of the engine is now known to be wrong."""
        if self._quotas and isinstance(error, SandboxError) and _NO_QUOTA.search(error.message):
            self._quotas = False
            return True
        if isinstance(error, ImageError) and status_of(error) == 404:
            return self._images.forget(image)
        return False

    async def _create(self, body: Json, key: str, made: MutableSequence[DockerHandle]) -> None:
        answer = await self._engine.call(
            "create",
            lambda api: api.create_container_from_config(body, key),
            deadline_s=_STEP_S,
        )
        container = str(answer["Id"])[:_ID]
        # Attached before the start, so that nothing it says is lost.
        connection, first = await self._engine.open(
            "create",
            f"/containers/{container}/attach?stream=1&stdin=1&stdout=1&stderr=1",
            None,
            container,
        )
        look = partial(look_at_main, self._engine, container)
        main = HijackedChannel(connection, first, look, container)
        described = describe(container, body["Labels"], "running", datetime.now(UTC))
        made.append(DockerHandle(self._engine, described, main))
        await self._engine.call("create", lambda api: api.start(container), deadline_s=_STEP_S)

    async def attach(self, sandbox_id: str) -> DockerHandle:
        """Take up a running container of ours; see `SandboxProvider.attach`."""
        try:
            found, labels = await self._inspect(sandbox_id)
        except SandboxError as error:
            if status_of(error) in {400, 404}:
                raise _not_found(sandbox_id, "There is no sandbox of this id") from error
            raise
        if found["State"].get("Status") in _ENDED:
            raise _not_found(sandbox_id, "This sandbox has ended")
        return DockerHandle(
            self._engine,
            describe(
                found["Id"][:_ID],
                labels,
                found["State"].get("Status", ""),
                datetime.fromisoformat(found["Created"]),
            ),
        )

    async def _inspect(self, sandbox_id: str) -> tuple[Json, dict[str, str]]:
        """What the engine says of a container of ours, and its labels."""
        found: Json = await self._engine.call(
            "attach", lambda api: api.inspect_container(sandbox_id), sandbox_id=sandbox_id
        )
        labels: dict[str, str] = found["Config"].get("Labels") or {}
        if OWNER_LABEL not in labels:
            raise _not_found(sandbox_id, "This container was not made by sandboxkit")
        return found, labels

    async def destroy(self, sandbox_id: str) -> None:
        """Remove a container of ours, one that never started or has ended, too."""
        try:
            found, _labels = await self._inspect(sandbox_id)
        except SandboxError as error:
            if status_of(error) == 404:
                return
            raise
        await remove(self._engine, str(found["Id"]))

    async def clock(self) -> datetime:
        """The engine's own time."""
        return await self._engine.clock()

    async def list(self, labels: Mapping[str, str]) -> AsyncIterator[SandboxInfo]:
        """All containers of ours with these labels; see `SandboxProvider.list`."""
        wanted = [OWNER_LABEL, *(f"{name}={value}" for name, value in labels.items())]
        found = await self._engine.call(
            "list", lambda api: api.containers(all=True, filters={"label": wanted})
        )
        for each in found:
            created = datetime.fromtimestamp(each["Created"], UTC)
            yield describe(each["Id"][:_ID], each.get("Labels"), each.get("State", ""), created)

    async def aclose(self) -> None:
        """Close the idle connections to the engine."""
        await self._engine.aclose()


def _not_found(sandbox_id: str, what: str) -> SandboxNotFoundError:
    return SandboxNotFoundError(
        f"{what}: {sandbox_id}.",
        op="attach",
        provider="docker",
        sandbox_id=sandbox_id,
        retryable=False,
    )
