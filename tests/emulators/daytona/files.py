"""The toolbox's files."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from urllib.parse import quote

from aiohttp import web

from tests.emulators.daytona.box import Box
from tests.emulators.daytona.gate import Json, Route, body_of, list_of
from tests.emulators.daytona.processes import Toolbox
from tests.emulators.daytona.refusals import DAEMON, Refused

_PIECE = 64 * 1024
_BOUNDARY = re.compile(r'boundary="?([^";]+)')
_NAME = re.compile(r'[ ;]name="([^"]*)"')
_WRITE = 'mkdir -p "$(dirname "$1")" && cat > "$1"'
_READ = 'if [ -f "$1" ]; then printf F; cat "$1"; else printf E; fi'
_FORMAT = r"%y\t%s\t%m\t%M\t%u\t%g\t%TY-%Tm-%TdT%TH:%TM:%.2TS\t%f\t%p\n"


class Files(Toolbox):
    """The endpoints."""

    def routes(self) -> list[Route]:
        """All of them."""
        top = "/toolbox/{id}/files"
        return [
            Route("GET", top, self._list, "files"),
            Route("DELETE", top, self._remove, "files"),
            Route("GET", f"{top}/info", self._info, "files"),
            Route("POST", f"{top}/folder", self._folder, "files"),
            Route("POST", f"{top}/move", self._move, "files"),
            Route("POST", f"{top}/permissions", self._permissions, "files"),
            Route("POST", f"{top}/bulk-upload", self._upload, "files"),
            Route("POST", f"{top}/bulk-download", self._download, "files"),
        ]

    async def _upload(self, request: web.Request) -> web.StreamResponse:
        box = self.box(request)
        targets: dict[str, str] = {}
        for name, content in _parts(request.headers.get("Content-Type", ""), await request.read()):
            key, _, field = name.partition("].")
            if field == "path":
                targets[key] = bytes(content).decode()
            elif key in targets:
                await _write(box, targets[key], content)
            else:
                raise Refused(400, f"{name} comes before its path", source=DAEMON)
        return web.Response(status=200)

    async def _download(self, request: web.Request) -> web.StreamResponse:
        box, body = self.box(request), await body_of(request)
        boundary = uuid.uuid4().hex
        kind = f"multipart/form-data; boundary={boundary}"
        answer = web.StreamResponse(headers={"Content-Type": kind})
        await answer.prepare(request)
        for path in list_of(body, "paths", source=DAEMON):
            await _read(box, path, answer, boundary)
        await answer.write(f"--{boundary}--\r\n".encode())
        return answer

    async def _list(self, request: web.Request) -> web.StreamResponse:
        depth = request.query.get("depth", "1")
        return web.json_response(await self._find(request, "-mindepth", "1", "-maxdepth", depth))

    async def _info(self, request: web.Request) -> web.StreamResponse:
        (found,) = await self._find(request, "-maxdepth", "0")
        return web.json_response(found)

    async def _find(self, request: web.Request, *bounds: str) -> list[Json]:
        path = _query(request, "path")
        out = await self._run(request, ["find", path, *bounds, "-printf", _FORMAT], path)
        return [_described(line) for line in out.splitlines()]

    async def _remove(self, request: web.Request) -> web.StreamResponse:
        path = _query(request, "path")
        flags = ["-r"] if request.query.get("recursive") == "true" else []
        await self._run(request, ["rm", *flags, "--", path], path)
        return web.Response(status=204)

    async def _folder(self, request: web.Request) -> web.StreamResponse:
        path, mode = _query(request, "path"), _query(request, "mode")
        await self._run(request, ["mkdir", "-p", "-m", mode, "--", path], path)
        return web.Response(status=201)

    async def _move(self, request: web.Request) -> web.StreamResponse:
        source, target = _query(request, "source"), _query(request, "destination")
        await self._run(request, ["mv", "--", source, target], source)
        return web.Response(status=200)

    async def _permissions(self, request: web.Request) -> web.StreamResponse:
        path = _query(request, "path")
        if mode := request.query.get("mode"):
            await self._run(request, ["chmod", mode, path], path)
        owner, group = request.query.get("owner", ""), request.query.get("group", "")
        if owner or group:
            await self._run(request, ["chown", f"{owner}:{group}", path], path)
        return web.Response(status=200)

    async def _run(self, request: web.Request, argv: list[str], path: str) -> str:
        box = self.box(request)
        code, out, err = await box.machine.run(argv, user=box.order.user, cwd=box.home)
        if code:
            raise _file_refused(path, err.decode(errors="replace").strip())
        return out.decode(errors="replace")


def _query(request: web.Request, name: str) -> str:
    value = request.query.get(name)
    if not value:
        raise Refused(400, f"{name} is required", source=DAEMON)
    return value


def _file_refused(path: str, said: str) -> Refused:
    if "Permission denied" in said or "not permitted" in said:
        return Refused(403, f"permission denied: {path}", "FILE_ACCESS_DENIED", DAEMON)
    if "No such file" in said:
        return Refused(404, f"file not found: {path}", "FILE_NOT_FOUND", DAEMON)
    return Refused(400, said, source=DAEMON)


def _parts(kind: str, body: bytes) -> Iterator[tuple[str, memoryview]]:
    """The names and contents of a form (aiohttp's own reader uses what it deprecates)."""
    boundary = _BOUNDARY.search(kind)
    if boundary is None:
        raise Refused(400, "the body must be multipart/form-data", source=DAEMON)
    mark = b"\r\n--" + boundary[1].encode()
    view, start = memoryview(body), len(mark)  # of what follows the first mark's line end
    while (end := body.find(mark, start)) >= 0:
        head_end = body.find(b"\r\n\r\n", start - 2, end)
        name = _NAME.search(body[start:head_end].decode())
        if head_end < 0 or name is None:
            raise Refused(400, "malformed multipart body", source=DAEMON)
        yield name[1], view[head_end + 4 : end]
        start = end + len(mark) + 2


async def _write(box: Box, path: str, content: memoryview) -> None:
    argv = ["sh", "-c", _WRITE, "sh", path]
    program = await box.machine.start(argv, user=box.order.user, cwd=box.home)
    try:
        for start in range(0, len(content), _PIECE):
            await program.send(bytes(content[start : start + _PIECE]))
        await program.send_eof()
        said = b"".join([output.data async for output in program])
        if await program.wait():
            raise _file_refused(path, said.decode(errors="replace").strip())
    finally:
        await program.aclose()


async def _read(box: Box, path: str, answer: web.StreamResponse, boundary: str) -> None:
    argv = ["sh", "-c", _READ, "sh", path]
    program = await box.machine.start(argv, user=box.order.user, cwd=box.home)
    try:
        begun = False
        async for output in program:
            data = output.data
            if output.fd != 1:
                continue
            if not begun:
                begun = True
                await answer.write(_part_head(boundary, path, found=data[:1] == b"F"))
                data = data[1:] if data[:1] == b"F" else _missing(path)
            await answer.write(data)
        await answer.write(b"\r\n")
    finally:
        await program.aclose()


def _part_head(boundary: str, path: str, *, found: bool) -> bytes:
    name, kind = ("file", "application/octet-stream") if found else ("error", "application/json")
    lines = (
        f"--{boundary}",
        f'Content-Disposition: form-data; name="{name}"; {_filename(path)}',
        f"Content-Type: {kind}",
        "",
        "",
    )
    return "\r\n".join(lines).encode()


def _filename(path: str) -> str:
    if not path.isascii():
        return f"filename*=utf-8''{quote(path)}"
    escaped = path.replace("\\", "\\\\").replace('"', '\\"')
    return f'filename="{escaped}"'


def _missing(path: str) -> bytes:
    message = f"file not found: {path}"
    body = {"statusCode": 404, "message": message, "code": "FILE_NOT_FOUND", "source": DAEMON}
    return json.dumps(body).encode()


def _described(line: str) -> Json:
    kind, size, octal, mode, owner, group, changed, name, path = line.split("\t")
    moment = changed[:19] + "Z"
    return {
        "name": name,
        "path": path,
        "isDir": kind == "d",
        "size": int(size),
        "mode": mode,
        "permissions": f"0{octal}",
        "owner": owner,
        "group": group,
        "modTime": moment,
        "modifiedAt": moment,
    }
