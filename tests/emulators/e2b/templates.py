"""E2B's REST API: templates and their builds."""

from __future__ import annotations

import re
import secrets
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from starlette.responses import JSONResponse, Response

from tests.emulators.e2b.account import Account
from tests.emulators.e2b.api import body_of
from tests.emulators.e2b.builder import Builder
from tests.emulators.e2b.catalog import BASE
from tests.emulators.e2b.refused import Refused
from tests.emulators.e2b.template import (
    DEFAULT_CPUS,
    DEFAULT_MEMORY_MIB,
    Build,
    Template,
    new_id,
    parse,
)
from tests.emulators.e2b.wire import failure

if TYPE_CHECKING:
    from starlette.requests import Request

_NAME: Final = re.compile(r"[a-z0-9_-]+")
_HASH: Final = re.compile(r"[0-9a-f]{64}")
_LOG_PAGE: Final = 100
_MAX_CPUS, _MIN_MIB, _MAX_MIB = 8, 128, 8192
_STEPS: Final = frozenset({"fromImage", "fromTemplate", "steps", "force"})

Json = dict[str, Any]


class Templates:
    """The calls that are about templates.

    Args:
        url: Where the emulator listens: files are uploaded there, too.
    """

    def __init__(self, account: Account, url: str) -> None:
        self._account, self._url = account, url
        self._catalog = account.catalog
        self._folder = tempfile.TemporaryDirectory(prefix="emulated-e2b-")
        self._secret = secrets.token_hex(16)
        self._files: dict[str, Path] = {}
        self._builder = Builder(account.machines, account.catalog, self._files)

    def close(self) -> None:
        """Remove what was uploaded."""
        self._folder.cleanup()

    async def request(self, request: Request) -> Response:
        """POST /v3/templates: a new build, of a new template or a known one."""
        body = await body_of(request)
        name, tag = parse(str(body.get("name") or ""))
        if not _NAME.fullmatch(name) or name == BASE:
            raise Refused(400, f"Invalid name: '{name}'")
        cpus, memory = body.get("cpuCount", DEFAULT_CPUS), body.get("memoryMB", DEFAULT_MEMORY_MIB)
        _check_resources(cpus, memory)
        template = self._catalog.named(name)
        build = Build(new_id(), cpus, memory)
        build.wanted_tags = list(dict.fromkeys([*(body.get("tags") or []), tag]))
        template.builds[build.id] = build
        told = {"templateID": template.id, "buildID": build.id, "public": False}
        told |= {"names": template.full_names, "aliases": template.names}
        return JSONResponse({**told, "tags": build.wanted_tags}, 202)

    async def file(self, request: Request) -> Response:
        """GET /templates/{id}/files/{hash}: where to upload the files of a step."""
        self._template(request)
        digest = request.path_params["hash"]
        if not _HASH.fullmatch(digest):
            raise Refused(400, "the hash must be a lower-case SHA-256")
        url = f"{self._url}/upload/{digest}?token={self._secret}"
        return JSONResponse({"present": digest in self._files, "url": url}, 201)

    async def upload(self, request: Request) -> Response:
        """PUT to the address that `file` has told: no key, the address is the secret."""
        digest = request.path_params["hash"]
        if request.query_params.get("token") != self._secret or not _HASH.fullmatch(digest):
            return failure(403, "SignatureDoesNotMatch")
        if "content-length" not in request.headers:
            return failure(411, "MissingContentLength")
        path = Path(self._folder.name) / f"{digest}-{secrets.token_hex(4)}"
        with path.open("wb") as file:
            async for piece in request.stream():
                file.write(piece)
        self._files[digest] = path
        return Response(status_code=200)

    async def start(self, request: Request) -> Response:
        """POST /v2/templates/{id}/builds/{build}: begin a build."""
        body = {name: value for name, value in (await body_of(request)).items() if value}
        template, build = self._template(request), self._build(request)
        if unknown := body.keys() - _STEPS:
            raise Refused(400, f"not emulated: {sorted(unknown)}")
        if ("fromImage" in body) == ("fromTemplate" in body):
            raise Refused(400, "Exactly one of fromImage and fromTemplate must be given")
        if build.status != "waiting":
            raise Refused(400, "build is not in waiting state")
        build.status = "building"
        self._account.spawn(self._run(template, build, body))
        return Response(status_code=202)

    async def _run(self, template: Template, build: Build, body: Json) -> None:
        await self._builder.run(build, body)
        if build.status == "ready":
            template.tags |= dict.fromkeys(build.wanted_tags, build.id)

    async def status(self, request: Request) -> Response:
        """GET /templates/{id}/builds/{build}/status, with a page of its log."""
        template, build = self._template(request), self._build(request)
        offset = int(request.query_params.get("logsOffset", 0))
        limit = min(int(request.query_params.get("limit", _LOG_PAGE)), _LOG_PAGE)
        told: Json = {"templateID": template.id, "buildID": build.id, "status": build.status}
        told |= {"logs": [], "logEntries": build.log[offset : offset + limit]}
        if build.reason is not None:
            told["reason"] = build.reason
        return JSONResponse(told)

    async def alias(self, request: Request) -> Response:
        """GET /templates/aliases/{alias}: a name is known as soon as a build was asked for."""
        template, _tag = self._catalog.find_template(request.path_params["alias"])
        return JSONResponse({"templateID": template.id, "public": template.id == BASE})

    async def remove(self, request: Request) -> Response:
        """DELETE /templates/{id}: of a template or a snapshot."""
        template, _tag = self._catalog.find_template(request.path_params["id"])
        if template.id == BASE:
            raise Refused(403, f"You don't have access to template '{BASE}'")
        await self._catalog.remove(template)
        return Response(status_code=204)

    def _template(self, request: Request) -> Template:
        return self._catalog.find_template(request.path_params["id"])[0]

    def _build(self, request: Request) -> Build:
        build = self._template(request).builds.get(request.path_params["build"])
        if build is None:
            raise Refused(404, f"Build '{request.path_params['build']}' not found")
        return build


def _check_resources(cpus: object, memory: object) -> None:
    if not isinstance(cpus, int) or not 1 <= cpus <= _MAX_CPUS:
        raise Refused(400, f"CPU count must be between 1 and {_MAX_CPUS}")
    if not isinstance(memory, int) or not _MIN_MIB <= memory <= _MAX_MIB:
        raise Refused(400, f"Memory must be between {_MIN_MIB} and {_MAX_MIB} MiB")
    if memory % 2:
        raise Refused(400, "Memory must be divisible by 2")
