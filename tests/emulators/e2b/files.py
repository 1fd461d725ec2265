"""Files written over HTTP to a sandbox's daemon, as the bare SDK does; sandboxkit does not."""

from __future__ import annotations

import io
import posixpath
import tarfile
import time
from typing import TYPE_CHECKING

from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tests.emulators.e2b.sandbox import Sandbox
from tests.emulators.e2b.wire import failure

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

_UID = 1000  # of whoever is not root in an emulated machine


def upload(sandbox: Sandbox) -> ASGIApp:
    """`POST /files?path=...` with one file, written as its sandbox's user."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        response = await _write(sandbox, Request(scope, receive))
        await response(scope, receive, send)

    return answer


async def _write(sandbox: Sandbox, request: Request) -> Response:
    path = request.query_params.get("path", "")
    if request.method != "POST" or not path.startswith("/"):
        return failure(404, "not emulated: only one file at an absolute path is written")
    async with request.form() as form:
        files = [each for each in form.values() if isinstance(each, UploadFile)]
        if len(files) != 1:
            return failure(400, "one file is expected")
        data = await files[0].read()
    archive = io.BytesIO()
    folder, name = posixpath.split(path)
    with tarfile.open(fileobj=archive, mode="w") as tar:
        entry = tarfile.TarInfo(name)
        entry.size, entry.mtime = len(data), time.time()
        entry.uid = entry.gid = 0 if sandbox.build.user == "root" else _UID
        tar.addfile(entry, io.BytesIO(data))
    await sandbox.machine.put(folder, archive.getvalue())
    return JSONResponse([{"name": name, "type": "file", "path": path}])
