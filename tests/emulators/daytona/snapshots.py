"""The snapshots of the account: images with resources, from which sandboxes start."""

from __future__ import annotations

import contextlib
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import docker.errors
from aiohttp import web

from tests.emulators.daytona.account import ORGANIZATION, Account, iso
from tests.emulators.daytona.builds import Builds, NoSuchImage
from tests.emulators.daytona.gate import Json, Route, body_of, number_of, text_of
from tests.emulators.daytona.refusals import Refused
from tests.emulators.daytona.rules import CLASSES, CONTAINER, Build, build_of, resources_of

if TYPE_CHECKING:
    from tests.emulators.daytona.box import Box

DEFAULT = "daytona-small"
_GIVEN = {DEFAULT: (1, 1, 3), "daytona-medium": (2, 4, 8), "daytona-large": (4, 8, 10)}
_REFUSED_TAGS = frozenset({"latest", "lts", "stable"})


@dataclass
class Snapshot:
    """One snapshot.

    Attributes:
        image: The engine's image; None is the default one.
        own: Whether `image` is a commit that ends with this snapshot.
        general: Whether it is the service's, that nobody can remove.
    """

    name: str
    cpu: int
    memory: int
    disk: int
    state: str = "pending"
    sandbox_class: str = CONTAINER
    image: str | None = None
    image_name: str | None = None
    build: Build | None = None
    source: str | None = None
    error: str | None = None
    own: bool = False
    general: bool = False
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    created: float = field(default_factory=time.time)

    def dto(self) -> Json:
        """As the API shows it."""
        shown: Json = {
            "id": self.id,
            "organizationId": ORGANIZATION,
            "general": self.general,
            "name": self.name,
            "imageName": self.image_name,
            "state": self.state,
            "size": 0.5 if self.state == "active" else None,
            "entrypoint": None,
            "cpu": self.cpu,
            "gpu": 0,
            "mem": self.memory,
            "disk": self.disk,
            "errorReason": self.error,
            "createdAt": iso(self.created),
            "updatedAt": iso(self.created),
            "lastUsedAt": None,
            "sourceSandboxId": self.source,
            "sandboxClass": self.sandbox_class,
        }
        if self.build is not None:
            shown["buildInfo"] = {
                "dockerfileContent": self.build.dockerfile,
                "contextHashes": list(self.build.contexts),
                "createdAt": iso(self.created),
                "updatedAt": iso(self.created),
                "snapshotRef": f"registry/{self.id}",
            }
        return shown


class Snapshots:
    """All of them, and the endpoints."""

    def __init__(self, account: Account, builds: Builds) -> None:
        self._account = account
        self.builds = builds
        self._commits: list[str] = []
        self._all: dict[str, Snapshot] = {}
        for name, (cpu, memory, disk) in _GIVEN.items():
            self._add(Snapshot(name, cpu, memory, disk, state="active", general=True))

    def routes(self) -> list[Route]:
        """All of them."""
        all_, one = "/api/snapshots", "/api/snapshots/{id}"
        return [
            Route("POST", all_, self._create, "build"),
            Route("GET", all_, self._list, "snapshots"),
            Route("GET", one, self._get, "snapshot_get"),
            Route("DELETE", one, self._delete, "snapshot_remove"),
            Route("POST", f"{one}/activate", self._activate),
            Route("GET", f"{one}/build-logs-url", self._logs_url),
            Route("GET", f"{one}/build-logs", self._logs),
        ]

    def names(self) -> set[str]:
        """The names of the account's own."""
        mine = (each for each in self._all.values() if not each.general)
        return {each.name for each in mine if each.state != "removing"}

    def usable(self, wanted: object) -> Snapshot:
        """What a sandbox starts from."""
        name = str(wanted or DEFAULT)
        found = self._look(name)
        if found is None:
            how = "Did you add it through the Daytona Dashboard?"
            raise Refused(400, f"Snapshot {name} not found. {how}")
        if found.state != "active":
            raise Refused(400, f"Snapshot {name} is {found.state}")
        return found

    def image_of(self, name: str) -> str | None:
        """The engine's image of a snapshot."""
        return self.usable(name).image

    def _look(self, wanted: str) -> Snapshot | None:
        by_name = (each for each in self._all.values() if each.name == wanted)
        return self._all.get(wanted) or next(by_name, None)

    def _add(self, snapshot: Snapshot) -> Snapshot:
        if self._look(snapshot.name) is not None:
            raise Refused(409, f'Snapshot with name "{snapshot.name}" already exists')
        self._all[snapshot.id] = snapshot
        return snapshot

    def _found(self, request: web.Request) -> Snapshot:
        wanted = request.match_info["id"]
        found = self._look(wanted)
        if found is None:
            raise Refused(404, f"Snapshot with ID or name {wanted} not found")
        return found

    async def _create(self, request: web.Request) -> web.StreamResponse:
        body = await body_of(request)
        name, build, image = text_of(body, "name"), build_of(body), body.get("imageName")
        if (build is None) == (image is None):
            raise Refused(400, "Exactly one of imageName and buildInfo must be given")
        sandbox_class = body.get("sandboxClass") or CONTAINER
        if sandbox_class not in CLASSES:
            raise Refused(400, f"sandboxClass must be one of {', '.join(sorted(CLASSES))}")
        if image is not None:
            _check_image_name(image)
        state = "pending" if build is None else "building"
        made = Snapshot(name, *resources_of(body), state, sandbox_class)
        made.image_name, made.build = image, build
        answer = web.json_response(self._add(made).dto())
        self._account.spawn(self._make(made))
        return answer

    async def _make(self, snapshot: Snapshot) -> None:
        try:
            if snapshot.build is not None:
                built = await self.builds.image(snapshot.build)
                snapshot.image, snapshot.error = built.image, built.error
            else:
                snapshot.state = "pulling"
                snapshot.image = await self.builds.base(str(snapshot.image_name))
        except NoSuchImage as error:
            snapshot.error = str(error)
        if snapshot.state == "removing":
            return
        failed = "error" if snapshot.build is None else "build_failed"
        snapshot.state = "active" if snapshot.error is None else failed

    def begin_of(self, box: Box, name: str) -> Snapshot:
        """A snapshot of a sandbox, not yet taken."""
        order = box.order
        made = Snapshot(
            name, order.cpu, order.memory, order.disk, "snapshotting", order.sandbox_class
        )
        made.source, made.own = box.id, True
        return self._add(made)

    async def keep(self, snapshot: Snapshot, box: Box, before: str) -> None:
        """Take it; the sandbox goes back to the state before."""
        try:
            snapshot.image = await box.keep(before)
        except Exception as error:  # noqa: BLE001 - whatever it is, the snapshot shows it
            snapshot.error, snapshot.state = repr(error), "error"
            return
        self._commits.append(snapshot.image)
        if snapshot.state == "removing":
            await self._remove_image(snapshot)
        else:
            snapshot.state = "active"

    async def _list(self, request: web.Request) -> web.StreamResponse:
        page = number_of(request.query.get("page", "1"), "page", least=1)
        limit = number_of(request.query.get("limit", "100"), "limit", least=1)
        source, name = request.query.get("sourceSandboxId"), request.query.get("name", "")
        found = [
            each.dto()
            for each in self._all.values()
            if name in each.name and (source is None or each.source == source)
        ]
        items = found[(page - 1) * limit : page * limit]
        pages = -(-len(found) // limit)
        total = {"total": len(found), "page": page, "totalPages": pages}
        return web.json_response({"items": items, **total})

    async def _get(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(self._found(request).dto())

    async def _delete(self, request: web.Request) -> web.StreamResponse:
        wanted = request.match_info["id"]
        found = self._all.get(wanted)
        if found is None or found.state == "removing":
            raise Refused(404, f"Snapshot with ID {wanted} not found")
        if found.general:
            raise Refused(403, "You cannot delete a general snapshot")
        found.state = "removing"
        self._account.spawn(self._remove(found))
        return web.Response(status=200)

    async def _remove(self, snapshot: Snapshot) -> None:
        await self._remove_image(snapshot)
        self._all.pop(snapshot.id, None)

    async def _remove_image(self, snapshot: Snapshot) -> None:
        if snapshot.own and snapshot.image is not None:
            # Where a sandbox still runs from it, `aclose` removes it.
            with contextlib.suppress(docker.errors.APIError):
                await self._account.machines.remove_image(snapshot.image)

    async def _activate(self, request: web.Request) -> web.StreamResponse:
        found = self._found(request)
        if found.state != "inactive":
            raise Refused(400, f"Snapshot {found.name} is already {found.state}")
        found.state = "active"
        return web.json_response(found.dto())

    async def _logs_url(self, request: web.Request) -> web.StreamResponse:
        found = self._found(request)
        url = f"{self._account.url}/api/snapshots/{found.id}/build-logs"
        return web.json_response({"url": url})

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        found = self._found(request)
        if found.build is None:
            raise Refused(404, f"Snapshot {found.name} has no build")
        return await self.builds.follow(request, found.build)

    async def aclose(self) -> None:
        """Remove all images that were made here; their sandboxes must be gone."""
        for image in self._commits:
            with contextlib.suppress(docker.errors.APIError):
                await self._account.machines.remove_image(image)
        await self.builds.aclose()


def _check_image_name(image: object) -> None:
    if not isinstance(image, str) or not image:
        raise Refused(400, "imageName must be a non-empty string")
    name, _, tag = image.rpartition(":")
    if "@" in image:
        return
    if not name or "/" in tag:
        raise Refused(400, "Image name must include a tag (e.g., ubuntu:22.04)")
    if tag in _REFUSED_TAGS:
        raise Refused(400, f'Images with tag ":{tag}" are not allowed')
