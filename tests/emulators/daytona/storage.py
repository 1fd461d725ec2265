"""The object storage that takes the files of builds: what of S3 the SDK's client uses."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import re
import secrets
import sys
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, cast

from aiohttp import web

from tests.emulators.daytona.account import ORGANIZATION
from tests.emulators.daytona.gate import Route
from tests.emulators.daytona.refusals import Refused

BUCKET = "daytona-volume-builds"
REGION = "us-east-2"
_KEY = re.compile(rf"{ORGANIZATION}/(?P<digest>[0-9a-f]{{32}})/context\.tar")


class Storage:
    """One bucket, in a directory."""

    def __init__(self) -> None:
        self.url = ""
        self._directory = tempfile.TemporaryDirectory(prefix="daytona-emulated-")
        self._root = Path(self._directory.name)
        self._access = secrets.token_hex(10)
        self._session = secrets.token_hex(20)
        self._parts: dict[str, dict[int, Path]] = {}

    def archive(self, digest: str) -> Path | None:
        """The uploaded archive of this hash."""
        path = self._root / digest
        return path if re.fullmatch("[0-9a-f]{32}", digest) and path.exists() else None

    def routes(self) -> list[Route]:
        """The API's endpoint for credentials, and the bucket's."""
        objects = f"/s3/{BUCKET}/{{key:.+}}"
        return [
            Route("GET", "/api/object-storage/push-access", self._push_access, "push_access"),
            Route("HEAD", objects, self._head, keyed=False),
            Route("PUT", objects, self._put, keyed=False),
            Route("POST", objects, self._post, keyed=False),
            Route("DELETE", objects, self._abort, keyed=False),
        ]

    async def _push_access(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(
            {
                "accessKey": self._access,
                "secret": secrets.token_hex(20),
                "sessionToken": self._session,
                "storageUrl": f"{self.url}/s3",
                "organizationId": ORGANIZATION,
                "bucket": BUCKET,
                "region": REGION,
            }
        )

    def _target(self, request: web.Request) -> Path:
        """Where an object is kept; refuses who does not sign with what was handed out."""
        signed = request.headers.get("Authorization", "")
        token = request.headers.get("x-amz-security-token")
        if self._access not in signed or token != self._session:
            raise Refused(403, "InvalidAccessKeyId")
        found = _KEY.fullmatch(request.match_info["key"])
        if found is None:
            raise Refused(403, "AccessDenied")
        return self._root / found["digest"]

    async def _head(self, request: web.Request) -> web.StreamResponse:
        target = self._target(request)
        if not target.exists():
            return web.Response(status=404)
        headers = {
            "Content-Length": str(target.stat().st_size),
            "ETag": '"whole"',
            "Last-Modified": "Sat, 01 Jan 2000 00:00:00 GMT",
        }
        return web.Response(headers=headers)

    async def _put(self, request: web.Request) -> web.StreamResponse:
        target = self._target(request)
        upload = request.query.get("uploadId")
        if upload is not None:
            number = int(request.query["partNumber"])
            target = self._root / f"{upload}.{number}"
            self._parts[upload][number] = target
        digest = hashlib.md5(usedforsecurity=False)
        incoming = target.with_suffix(f".{secrets.token_hex(4)}")
        with incoming.open("wb") as file:
            async for chunk in request.content.iter_any():
                digest.update(chunk)
                file.write(chunk)
        incoming.replace(target)
        return web.Response(headers={"ETag": f'"{digest.hexdigest()}"'})

    async def _post(self, request: web.Request) -> web.StreamResponse:
        target = self._target(request)
        key = request.match_info["key"]
        if "uploads" in request.query:
            upload = secrets.token_hex(8)
            self._parts[upload] = {}
            return _xml(
                "InitiateMultipartUploadResult",
                f"<Bucket>{BUCKET}</Bucket><Key>{key}</Key><UploadId>{upload}</UploadId>",
            )
        parts = self._parts.pop(request.query.get("uploadId", ""), None)
        if parts is None:
            raise Refused(404, "NoSuchUpload")
        with target.open("wb") as file:
            for _, part in sorted(parts.items()):
                file.write(part.read_bytes())
                part.unlink()
        return _xml(
            "CompleteMultipartUploadResult",
            f'<Bucket>{BUCKET}</Bucket><Key>{key}</Key><ETag>"whole"</ETag>',
        )

    async def _abort(self, request: web.Request) -> web.StreamResponse:
        self._target(request)
        for part in self._parts.pop(request.query.get("uploadId", ""), {}).values():
            part.unlink(missing_ok=True)
        return web.Response(status=204)

    def aclose(self) -> None:
        """Remove the directory."""
        self._directory.cleanup()


def _xml(name: str, content: str) -> web.Response:
    space = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
    text = f'<?xml version="1.0" encoding="UTF-8"?><{name} {space}>{content}</{name}>'
    return web.Response(text=text, content_type="application/xml")


@contextlib.contextmanager
def plain_http() -> Generator[None]:
    """Let the SDK's S3 client speak to a loopback address without TLS.

    The one thing that no variable can tell the SDK: its client takes https alone, trusts
    only the system's certificates, and is made in an emptied environment.
    """
    import obstore.store

    real = cast("Callable[..., Any]", obstore.store.S3Store)

    @functools.wraps(real, updated=())
    def store(*args: Any, **kwargs: Any) -> Any:
        options = dict(kwargs.pop("client_options", None) or {}) | {"allow_http": True}
        return real(*args, client_options=options, **kwargs)

    names = ("obstore.store", "daytona._async.object_storage", "daytona._sync.object_storage")
    for name in names:
        if name in sys.modules:
            vars(sys.modules[name])["S3Store"] = store
    try:
        yield
    finally:
        for name in names:
            if name in sys.modules:
                vars(sys.modules[name])["S3Store"] = real
