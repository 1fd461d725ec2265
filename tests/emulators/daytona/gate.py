"""What every request passes: the key, the faults, the envelope of errors."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, cast

from aiohttp import web

from sandboxkit.errors import SandboxError
from tests.emulators.daytona.refusals import PROXY, Refused, too_many
from tests.emulators.faults import Fault, Faults
from tests.emulators.machines import MachineGone

Json = dict[str, Any]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

FAULT = web.RequestKey("fault", Fault)


class Route(NamedTuple):
    """One endpoint.

    Attributes:
        op: What faults and counts call it, if anything.
        keyed: Whether the key is asked for.
    """

    method: str
    path: str
    handler: Handler
    op: str | None = None
    keyed: bool = True


class Gate:
    """Lets requests in to the handlers."""

    def __init__(self, key: str, faults: Faults) -> None:
        self._key = key
        self._faults = faults

    def add(self, app: web.Application, route: Route) -> None:
        """Serve a route, guarded."""

        async def guarded(request: web.Request) -> web.StreamResponse:
            try:
                if route.keyed:
                    self.check(request)
                return await self._serve(route, request)
            except Refused as refused:
                return refused.answer()
            except ConnectionError:  # the caller has hung up in the middle of its request
                return Refused(400, "The request is incomplete").answer()
            except (MachineGone, SandboxError) as error:
                return Refused(502, f"the sandbox is gone: {error}", source=PROXY).answer()

        app.router.add_route(route.method, route.path, guarded)

    def check(self, request: web.Request) -> None:
        """Refuse a request without the account's key."""
        if request.headers.get("Authorization") != f"Bearer {self._key}":
            raise Refused(401, "Invalid credentials")

    def knows(self, key: object) -> bool:
        """Whether this is the account's key."""
        return key == self._key

    async def _serve(self, route: Route, request: web.Request) -> web.StreamResponse:
        fault = self._faults.take(route.op) if route.op is not None else None
        if fault is None:
            return await route.handler(request)
        request[FAULT] = fault
        if fault.kind == "refuse":
            assert route.op is not None
            raise _refusal(route.op, fault)
        if fault.kind == "delay":
            if request.content_type == "application/json":
                await request.read()  # or it could not be read when the caller has hung up
            await asyncio.sleep(fault.seconds)
        answer = await route.handler(request)
        if fault.kind == "lose_answer" and request.transport is not None:
            request.transport.abort()
        return answer


def _refusal(op: str, fault: Fault) -> Refused:
    status = int(fault.status)
    if status == 429:
        return too_many(op, fault.retry_after)
    headers = {} if fault.retry_after is None else {"Retry-After": f"{fault.retry_after:g}"}
    return Refused(status, f"{op} was refused by a fault", headers=headers)


async def body_of(request: web.Request) -> Json:
    """The JSON object of a request."""
    try:
        found = await request.json()
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise Refused(400, "The body must be a JSON object")
    return cast("Json", found)


def text_of(body: Json, name: str, *, source: str = "DAYTONA_API") -> str:
    """A field that must be a string that says something."""
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise Refused(400, f"{name} must be a non-empty string", source=source)
    return value


def strings_of(body: Json, name: str, *, source: str = "DAYTONA_API") -> dict[str, str]:
    """A field that must be an object of strings, if it is there."""
    found: object = body.get(name)
    if found is None:
        return {}
    values = cast("Json", found).items() if isinstance(found, dict) else [("", None)]
    if not all(isinstance(each, str) for _, each in values):
        raise Refused(400, f"{name} must be an object whose values are strings", source=source)
    return {key: str(each) for key, each in values}


def list_of(body: Json, name: str, *, source: str = "DAYTONA_API") -> list[str]:
    """A field that must be a list of strings, if it is there."""
    found: object = body.get(name)
    values = cast("list[object]", found) if isinstance(found, list) else [found]
    if found is None:
        return []
    if not all(isinstance(each, str) for each in values):
        raise Refused(400, f"each value in {name} must be a string", source=source)
    return [str(each) for each in values]


def number_of(text: str, name: str, *, least: int = 0) -> int:
    """A number in a path or query."""
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise Refused(400, f"{name} must be an integer of at least {least}")
    return number
