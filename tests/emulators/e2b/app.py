"""Who answers a request to the emulated E2B: the API, a sandbox's daemon, or a port in it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, cast

from e2b.envd.process.process_connect import ProcessASGIApplication
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.routing import Route

from tests.emulators.e2b.account import Account
from tests.emulators.e2b.api import Sandboxes, keyed
from tests.emulators.e2b.envd import Processes
from tests.emulators.e2b.files import upload
from tests.emulators.e2b.ports import port
from tests.emulators.e2b.sandbox import Sandbox
from tests.emulators.e2b.templates import Templates
from tests.emulators.e2b.wire import Exchange, Gate, failure
from tests.emulators.faults import Faults

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send

_ENVD_PORT: Final = "49983"
_RPC: Final = {
    "Start": ("start", "output"),
    "Connect": ("output",),
    "SendInput": ("input",),
    "StreamInput": ("input",),
    "CloseStdin": ("input",),
    "SendSignal": ("signal",),
    "List": ("processes",),
}
_API: Final = (
    ("POST", r"/v2/sandboxes", "create"),
    ("GET", r"/v2/sandboxes", "list"),
    ("GET", r"/sandboxes/[^/]+", "get"),
    ("DELETE", r"/sandboxes/[^/]+", "destroy"),
    ("POST", r"/sandboxes/[^/]+/timeout", "renew"),
    ("POST", r"/sandboxes/[^/]+/pause", "pause"),
    ("POST", r"/sandboxes/[^/]+/snapshots", "snapshot"),
    ("GET", r"/snapshots", "snapshots"),
)


def application(account: Account, templates: Templates, faults: Faults, key: str) -> ASGIApp:
    """All of it, behind the gate where faults strike."""

    def operations(scope: Scope) -> Sequence[str]:
        return _operations(scope, account)

    return Gate(_Front(account, _api(account, key, templates)), faults, operations)


def _operations(scope: Scope, account: Account) -> Sequence[str]:
    headers, path = Headers(scope=scope), str(scope["path"])
    if headers.get("e2b-sandbox-port", _ENVD_PORT) != _ENVD_PORT:
        return ("expose",)
    if path.startswith("/process.Process/"):
        return _RPC.get(path.rpartition("/")[2], ())
    if connected := re.fullmatch(r"/v2/sandboxes/([^/]+)/connect", path):
        sandbox = account.sandboxes.get(connected[1])
        paused = sandbox is not None and sandbox.state != "running"
        return ("resume",) if paused else ("get",)
    for method, pattern, operation in _API:
        if scope["method"] == method and re.fullmatch(pattern, path):
            return (operation,)
    return ("build",) if "/templates" in path or path.startswith("/upload/") else ()


def _api(account: Account, key: str, templates: Templates) -> ASGIApp:
    sandboxes = Sandboxes(account)
    calls = (
        ("POST", "/v2/sandboxes", sandboxes.create),
        ("GET", "/v2/sandboxes", sandboxes.list),
        ("POST", "/v2/sandboxes/{id}/connect", sandboxes.connect),
        ("GET", "/sandboxes/{id}", sandboxes.get),
        ("DELETE", "/sandboxes/{id}", sandboxes.kill),
        ("POST", "/sandboxes/{id}/timeout", sandboxes.set_timeout),
        ("POST", "/sandboxes/{id}/pause", sandboxes.pause),
        ("POST", "/sandboxes/{id}/snapshots", sandboxes.snapshot),
        ("GET", "/snapshots", sandboxes.snapshots),
        ("POST", "/v3/templates", templates.request),
        ("POST", "/v2/templates/{id}/builds/{build}", templates.start),
        ("GET", "/templates/{id}/builds/{build}/status", templates.status),
        ("GET", "/templates/{id}/files/{hash}", templates.file),
        ("GET", "/templates/aliases/{alias:path}", templates.alias),
        ("DELETE", "/templates/{id:path}", templates.remove),
    )
    routes = [Route(path, keyed(key, answer), methods=[method]) for method, path, answer in calls]
    routes.append(Route("/upload/{hash}", templates.upload, methods=["PUT"]))
    return Starlette(routes=routes, exception_handlers={404: _unknown, 405: _unknown})


async def _unknown(request: Request, _error: Exception) -> Response:
    return failure(404, f"not emulated: {request.method} {request.url.path}")


class _Front:
    """Tells requests for a sandbox from requests for the API, by their headers."""

    def __init__(self, account: Account, api: ASGIApp) -> None:
        self._account, self._api = account, api
        processes = ProcessASGIApplication(Processes(account), read_max_bytes=None, compressions=())
        self._processes = cast("ASGIApp", processes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        sandbox_id = headers.get("e2b-sandbox-id")
        if sandbox_id is None:
            await self._api(scope, receive, send)
            return
        sandbox = self._account.sandboxes.get(sandbox_id)
        if sandbox is None or sandbox.state != "running":
            message = "The sandbox was not found"
            await failure(502, message, sandboxId=sandbox_id)(scope, receive, send)
            return
        exchange: Exchange = scope["state"]["exchange"]
        with sandbox.serving(exchange):
            app = self._answerer(scope, headers, sandbox)
            await app(scope, receive, send)

    def _answerer(self, scope: Scope, headers: Headers, sandbox: Sandbox) -> ASGIApp:
        """What answers in a sandbox: its daemon, or whoever listens at the port."""
        number = headers.get("e2b-sandbox-port", "")
        if not number.isdigit():
            return failure(400, "Invalid sandbox port", sandboxId=sandbox.id)
        if number != _ENVD_PORT:
            return port(sandbox, int(number), headers)
        if scope["path"] == "/health":
            return Response(status_code=204)
        if headers.get("x-access-token") != sandbox.token:
            message = "unauthorized access, please provide a valid access token"
            return failure(401, message)
        if str(scope["path"]).startswith("/process.Process/"):
            return self._processes
        return upload(sandbox) if scope["path"] == "/files" else failure(404, "not emulated")
