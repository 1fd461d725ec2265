"""E2B's REST API: sandboxes."""

from __future__ import annotations

import asyncio
import json
import re
import traceback
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import parse_qsl, unquote

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tests.emulators.e2b.account import Account
from tests.emulators.e2b.network import check
from tests.emulators.e2b.refused import Refused
from tests.emulators.e2b.sandbox import CREATE_S, Sandbox, Transition
from tests.emulators.e2b.wire import Exchange, failure

_PAGE: Final = 100
_CONNECT_S: Final = 300
_IDEMPOTENCY: Final = re.compile(r"[a-z0-9-]{1,255}")
_CREATE_FIELDS: Final = frozenset(
    {"templateID", "timeout", "metadata", "envVars", "autoPause", "autoPauseMemory"}
    | {"autoResume", "allow_internet_access", "network"}
)

Json = dict[str, Any]
Answer = Callable[[Request], Awaitable[Response]]


def keyed(key: str, answer: Answer) -> Answer:
    """Let only the customer in, and put every refusal in the API's shape."""

    async def checked(request: Request) -> Response:
        given = request.headers.get("x-api-key")
        if not given:
            return failure(401, "Missing API key, please pass it in the X-API-KEY header")
        if given != key:
            return failure(401, "Cannot get the team for the given API key")
        try:
            return await answer(request)
        except Refused as refused:
            more = {"error_code": refused.error_code} if refused.error_code else {}
            return failure(refused.status, str(refused), **more)
        except Exception:  # noqa: BLE001 - as the real one answers: whatever it was, with 500
            traceback.print_exc()
            return failure(500, "Internal server error")

    return checked


async def body_of(request: Request) -> Json:
    """The request's JSON object; none at all is an empty one.

    Raises:
        Refused: It is something else.
    """
    raw = await request.body()
    try:
        body: object = json.loads(raw) if raw else {}
    except ValueError as error:
        raise Refused(400, f"Error when parsing request: {error}") from error
    if not isinstance(body, dict):
        raise Refused(400, "Error when parsing request: an object was expected")
    return body  # pyright: ignore[reportUnknownVariableType]


class Sandboxes:
    """The calls that are about sandboxes."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._by_key: dict[str, tuple[Json, asyncio.Task[Sandbox]]] = {}

    async def create(self, request: Request) -> Response:
        """POST /v2/sandboxes."""
        body = await body_of(request)
        self._check(body)
        key = request.headers.get("idempotency-key")
        if key is None:
            return JSONResponse((await self._account.create(body)).created(), 201)
        if not _IDEMPOTENCY.fullmatch(key):
            raise Refused(400, "Invalid Idempotency-Key header")
        return JSONResponse((await self._create_once(key, body)).created(), 201)

    async def _create_once(self, key: str, body: Json) -> Sandbox:
        """The sandbox that was created by this key, now or before."""
        first, task = self._by_key.get(key, (body, None))
        if first != body:
            raise Refused(
                422,
                "The idempotency key was already used with a different request",
                "idempotency_request_mismatch",
            )
        if task is not None and not task.done():
            raise Refused(
                409,
                "A request with this idempotency key is still in progress",
                "idempotency_in_progress",
            )
        if task is None or task.exception() is not None:
            task = asyncio.create_task(self._account.create(body))
            self._by_key[key] = body, task
        return await asyncio.shield(task)

    def _check(self, body: Json) -> None:
        if unknown := body.keys() - _CREATE_FIELDS:
            raise Refused(400, f"not emulated: {sorted(unknown)}")
        if not body.get("templateID"):
            raise Refused(400, "Error when parsing request: templateID is missing")
        self._check_time(_seconds(body, CREATE_S))
        for field in ("metadata", "envVars"):
            pairs: dict[object, object] = body.get(field) or {}
            if not all(isinstance(word, str) for pair in pairs.items() for word in pair):
                raise Refused(400, f"Error when parsing request: {field} must be strings")
        resume: Json = body.get("autoResume") or {}
        if resume.get("enabled") and not body.get("autoPause"):
            raise Refused(400, "Auto-resume needs auto-pause")
        check(body.get("network") or {})

    async def list(self, request: Request) -> Response:
        """GET /v2/sandboxes, a page at a time."""
        asked = request.query_params
        if unknown := asked.keys() - {"metadata", "state", "limit", "nextToken", "order"}:
            raise Refused(400, f"not emulated: {sorted(unknown)}")
        # Quoted twice: once as a pair, once as a parameter.
        pairs = parse_qsl(asked.get("metadata", ""), keep_blank_values=True)
        wanted = {unquote(name): unquote(value) for name, value in pairs}
        states = set(filter(None, asked.get("state", "running,paused").split(",")))
        if states - {"running", "paused"}:
            raise Refused(400, f"invalid state: {asked['state']}")
        limit = int(asked.get("limit", _PAGE))
        if not 1 <= limit <= _PAGE:
            raise Refused(400, f"limit must be between 1 and {_PAGE}")
        found = [
            sandbox
            for sandbox in list(self._account.sandboxes.values())
            if sandbox.visible
            and sandbox.listed()["state"] in states
            and wanted.items() <= sandbox.metadata.items()
        ]
        found.sort(key=lambda sandbox: sandbox.started_at, reverse=asked.get("order") != "asc")
        after = [sandbox.id for sandbox in found].index
        try:
            start = after(asked["nextToken"]) + 1 if "nextToken" in asked else 0
        except ValueError:
            raise Refused(400, "invalid next token") from None
        page = found[start : start + limit]
        answer = JSONResponse([sandbox.listed() for sandbox in page])
        if page and page[-1] is not found[-1]:
            answer.headers["x-next-token"] = page[-1].id
        return answer

    async def get(self, request: Request) -> Response:
        """GET /sandboxes/{id}."""
        return JSONResponse(self._sandbox(request).detail())

    async def kill(self, request: Request) -> Response:
        """DELETE /sandboxes/{id}."""
        sandbox = self._sandbox(request)
        await self._account.kill(sandbox.id)
        return Response(status_code=204)

    async def connect(self, request: Request) -> Response:
        """POST /v2/sandboxes/{id}/connect: a running one lives longer, a paused one resumes."""
        sandbox, body = self._sandbox(request), await body_of(request)
        seconds = _seconds(body, _CONNECT_S)
        self._check_time(seconds)
        resumed = await sandbox.resume()
        if resumed or sandbox.seconds_left < seconds:
            self._account.set_timeout(sandbox, seconds)
        return JSONResponse(sandbox.created(), 201 if resumed else 200)

    async def set_timeout(self, request: Request) -> Response:
        """POST /sandboxes/{id}/timeout."""
        sandbox, body = self._sandbox(request), await body_of(request)
        if sandbox.state == "paused":
            raise Refused(404, f"Sandbox '{sandbox.id}' not found")
        if sandbox.state != "running":
            raise Refused(409, f"Sandbox '{sandbox.id}' is {sandbox.state}")
        self._account.set_timeout(sandbox, _seconds(body, None))
        return Response(status_code=204)

    async def pause(self, request: Request) -> Response:
        """POST /sandboxes/{id}/pause."""
        exchange: Exchange = request.scope["state"]["exchange"]
        try:
            await self._sandbox(request).pause(exchange.delay_s)
        except Transition as error:
            raise Refused(409, str(error)) from error
        return Response(status_code=204)

    async def snapshot(self, request: Request) -> Response:
        """POST /sandboxes/{id}/snapshots."""
        sandbox, body = self._sandbox(request), await body_of(request)
        try:
            template, tag = await self._account.snapshot(sandbox, body.get("name"))
        except Transition as error:
            raise Refused(409, str(error)) from error
        return JSONResponse(template.snapshot(tag), 201)

    async def snapshots(self, request: Request) -> Response:
        """GET /snapshots."""
        asked = request.query_params
        return JSONResponse(
            [
                template.snapshot(tag)
                for template in self._account.catalog.templates.values()
                if template.sandbox_id is not None
                and asked.get("sandboxID", template.sandbox_id) == template.sandbox_id
                and ("name" not in asked or asked["name"] in template.names)
                for tag in template.tags
            ]
        )

    def _check_time(self, seconds: int) -> None:
        hours = self._account.max_hours
        if seconds > hours * 3600:
            raise Refused(400, f"Timeout cannot be greater than {hours} hours")

    def _sandbox(self, request: Request) -> Sandbox:
        return self._account.find(request.path_params["id"])


def _seconds(body: Json, default: int | None) -> int:
    seconds = body.get("timeout", default)
    if not isinstance(seconds, int) or seconds < 0:
        raise Refused(400, "Error when parsing request: timeout is no number of seconds")
    return seconds
