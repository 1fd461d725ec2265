"""A registry on the loopback interface, with one image or with a refusal."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import tarfile
import threading
from collections.abc import Generator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def image(files: Mapping[str, bytes], config: Mapping[str, Any]) -> dict[str, tuple[str, bytes]]:
    """The pages of a registry that has one image, `test:1`, of one layer."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o755
            tar.addfile(member, io.BytesIO(content))
    packed = gzip.compress(layer.getvalue(), 1)
    settings = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": dict(config),
            "rootfs": {"type": "layers", "diff_ids": [digest(layer.getvalue())]},
        }
    ).encode()

    def about(data: bytes, kind: str) -> dict[str, object]:
        media = f"application/vnd.docker.{kind}"
        return {"mediaType": media, "size": len(data), "digest": digest(data)}

    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": about(settings, "container.image.v1+json"),
            "layers": [about(packed, "image.rootfs.diff.tar.gzip")],
        }
    ).encode()
    blobs = {
        f"/v2/test/blobs/{digest(data)}": ("application/octet-stream", data)
        for data in (settings, packed)
    }
    manifests = {
        f"/v2/test/manifests/{name}": (MANIFEST, manifest) for name in ("1", digest(manifest))
    }
    return {"/v2/": ("application/json", b"{}"), **blobs, **manifests}


@contextlib.contextmanager
def registry(
    pages: Mapping[str, tuple[str, bytes]], refusal: tuple[int, str] | None = None
) -> Generator[str, None, None]:
    """Serve; gives `host:port`.

    Args:
        pages: Content type and content, by path. What is not there is 404.
        refusal: The status and code of the answer to everything instead.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            kind, content = pages.get(self.path, ("", b""))
            status = 200 if kind else 404
            code = "MANIFEST_UNKNOWN"
            if refusal is not None:
                status, code = refusal
            if status != 200:
                kind = "application/json"
                content = json.dumps({"errors": [{"code": code, "message": code.lower()}]}).encode()
            self.send_response(status)
            if status == 401:
                self.send_header("WWW-Authenticate", 'Basic realm="test"')
            self.send_header("Docker-Distribution-Api-Version", "registry/2.0")
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            if kind == MANIFEST:
                self.send_header("Docker-Content-Digest", digest(content))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET  # noqa: N815 - the server's names

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
