"""The control plane: `/api/sandbox`."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping

from aiohttp import web

from tests.emulators.daytona.account import Account
from tests.emulators.daytona.box import GOING, Box
from tests.emulators.daytona.gate import Json, Route, body_of, number_of, strings_of, text_of
from tests.emulators.daytona.refusals import Refused, sandbox_not_found
from tests.emulators.daytona.rules import network_of, order_of

_TICK_S = 0.05
_PAGE = 100
# From which states a wish can be granted.
_CAN = {
    "stop": frozenset({"started"}),
    "start": frozenset({"stopped", "paused"}),
    "pause": frozenset({"started"}),
    "snapshot": frozenset({"started", "stopped"}),
}


class Sandboxes:
    """The endpoints, and what the service does by itself."""

    def __init__(self, account: Account) -> None:
        self._account = account

    def routes(self) -> list[Route]:
        """All of them."""
        all_, one = "/api/sandbox", "/api/sandbox/{id}"
        return [
            Route("POST", all_, self._create, "create"),
            Route("GET", all_, self._list, "list"),
            Route("GET", one, self._get, "get"),
            Route("DELETE", one, self._delete, "destroy"),
            Route("POST", f"{one}/start", self._start, "resume"),
            Route("POST", f"{one}/stop", self._stop, "stop"),
            Route("POST", f"{one}/pause", self._pause, "pause"),
            Route("POST", f"{one}/snapshot", self._snapshot, "snapshot"),
            Route("PUT", f"{one}/labels", self._labels),
            Route("POST", f"{one}/ttl/{{minutes}}", self._ttl, "renew"),
            Route("POST", f"{one}/autostop/{{minutes}}", self._auto_stop),
            Route("POST", f"{one}/autopause/{{minutes}}", self._auto_pause),
            Route("POST", f"{one}/autodelete/{{minutes}}", self._auto_delete),
            Route("POST", f"{one}/autoarchive/{{minutes}}", self._auto_archive),
            Route("POST", f"{one}/last-activity", self._activity),
            Route("POST", f"{one}/network-settings", self._network),
            Route("POST", f"{one}/public/{{flag}}", self._public),
            Route("GET", f"{one}/toolbox-proxy-url", self._proxy_url),
            Route("GET", f"{one}/build-logs-url", self._logs_url),
            Route("GET", f"{one}/build-logs", self._logs),
        ]

    def _box(self, request: web.Request) -> Box:
        return self._account.box(request.match_info["id"])

    async def _create(self, request: web.Request) -> web.StreamResponse:
        box = Box(self._account, order_of(self._account, await body_of(request)))
        self._account.boxes[box.id] = box
        answer = web.json_response(box.dto())
        self._account.spawn(box.boot())
        return answer

    async def _list(self, request: web.Request) -> web.StreamResponse:
        labels = _labels_asked(request.query)
        states = set(request.query.getall("states", []))
        known = time.time() - self._account.settings.list_lag_s
        found = [
            box.item()
            for box in self._account.boxes.values()
            if labels.items() <= box.labels.items()
            and (not states or box.state in states)
            and box.created <= known
            and box.name.startswith(request.query.get("name", ""))
        ]
        size = number_of(request.query.get("limit", str(_PAGE)), "limit", least=1)
        if size > 200:
            raise Refused(400, "limit must not be greater than 200")
        start = number_of(request.query.get("cursor", "0"), "cursor")
        more = str(start + size) if start + size < len(found) else None
        return web.json_response({"items": found[start : start + size], "nextCursor": more})

    async def _get(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(self._box(request).dto())

    async def _delete(self, request: web.Request) -> web.StreamResponse:
        box = self._box(request)
        if box.state in GOING:
            raise sandbox_not_found(request.match_info["id"])
        await self.destroy(box)
        return web.json_response(box.dto())

    async def destroy(self, box: Box) -> None:
        """Begin to end a sandbox."""
        box.desired = "destroyed"
        await box.move("destroying")
        self._account.spawn(box.remove())

    async def _start(self, request: web.Request) -> web.StreamResponse:
        box = self._wish(request, "start")
        box.desired = "started"
        await box.move("starting" if box.state == "stopped" else "resuming")
        self._account.spawn(box.start())
        return web.json_response(box.dto())

    async def _stop(self, request: web.Request) -> web.StreamResponse:
        box = self._wish(request, "stop")
        await self._begin_stop(box)
        return web.json_response(box.dto())

    async def _begin_stop(self, box: Box) -> None:
        box.desired = "stopped"
        await box.move("stopping")
        self._account.spawn(box.stop())

    async def _pause(self, request: web.Request) -> web.StreamResponse:
        box = self._box(request)
        if not box.virtual:
            raise Refused(400, "Pausing is not supported for container sandboxes")
        self._wish(request, "pause")
        await self._begin_pause(box)
        return web.json_response(box.dto())

    async def _begin_pause(self, box: Box) -> None:
        await box.move("pausing")
        self._account.spawn(box.pause())

    async def _snapshot(self, request: web.Request) -> web.StreamResponse:
        body = await body_of(request)
        box = self._wish(request, "snapshot")
        if body.get("includeMemory") and not box.virtual:
            raise Refused(400, "Container sandboxes do not support memory snapshots")
        if box.virtual and not body.get("includeMemory") and box.state != "stopped":
            raise Refused(400, "Sandbox must be stopped to create a snapshot of its disk")
        begun = self._account.snapshots.begin_of(box, text_of(body, "name"))
        before = box.state
        await box.move("snapshotting")
        self._account.spawn(self._account.snapshots.keep(begun, box, before))
        return web.json_response(box.dto())

    def _wish(self, request: web.Request, verb: str) -> Box:
        box = self._box(request)
        if box.state not in _CAN[verb]:
            raise Refused(400, f"Sandbox is not in valid state to {verb}: {box.state}")
        return box

    async def _labels(self, request: web.Request) -> web.StreamResponse:
        body = await body_of(request)
        if "labels" not in body:
            raise Refused(400, "labels must be an object")
        box = self._box(request)
        box.labels = strings_of(body, "labels")
        return web.json_response({"labels": box.labels})

    async def _ttl(self, request: web.Request) -> web.StreamResponse:
        box, minutes = self._minutes(request)
        if box.state in GOING:
            raise sandbox_not_found(request.match_info["id"])
        box.clocks.ttl, box.clocks.ttl_since = minutes, time.time()
        return web.json_response(box.dto())

    async def _auto_stop(self, request: web.Request) -> web.StreamResponse:
        box, minutes = self._minutes(request)
        if minutes and box.clocks.auto_pause:
            raise Refused(400, "autoStopInterval and autoPauseInterval are mutually exclusive")
        box.clocks.auto_stop = minutes
        return web.json_response(box.dto())

    async def _auto_pause(self, request: web.Request) -> web.StreamResponse:
        box, minutes = self._minutes(request)
        if minutes and not box.virtual:
            raise Refused(400, "Auto-pause is only supported for VM sandboxes")
        if minutes and box.clocks.auto_stop:
            raise Refused(400, "autoStopInterval and autoPauseInterval are mutually exclusive")
        box.clocks.auto_pause = minutes
        return web.json_response(box.dto())

    async def _auto_delete(self, request: web.Request) -> web.StreamResponse:
        box, minutes = self._minutes(request, least=-1)
        box.clocks.auto_delete = minutes
        return web.json_response(box.dto())

    async def _auto_archive(self, request: web.Request) -> web.StreamResponse:
        box, minutes = self._minutes(request)
        box.clocks.auto_archive = minutes
        return web.json_response(box.dto())

    def _minutes(self, request: web.Request, *, least: int = 0) -> tuple[Box, int]:
        minutes = number_of(request.match_info["minutes"], "minutes", least=least)
        return self._box(request), minutes

    async def _activity(self, request: web.Request) -> web.StreamResponse:
        self._box(request).touch()
        return web.Response(status=201)

    async def _network(self, request: web.Request) -> web.StreamResponse:
        box, body = self._box(request), await body_of(request)
        old: Json = {
            "networkBlockAll": box.blocked,
            "networkAllowList": box.allowed,
            "domainAllowList": box.domains,
        }
        if self._account.settings.tier < 3:
            raise Refused(403, "Network settings cannot be overridden on this tier")
        blocked, allowed, domains = network_of(self._account, old | body)
        await box.set_network(blocked=blocked, allowed=allowed, domains=domains)
        return web.json_response(box.dto())

    async def _public(self, request: web.Request) -> web.StreamResponse:
        box = self._box(request)
        box.public = request.match_info["flag"].lower() == "true"
        return web.json_response(box.dto())

    async def _proxy_url(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"url": self._box(request).dto()["toolboxProxyUrl"]})

    async def _logs_url(self, request: web.Request) -> web.StreamResponse:
        box = self._box(request)
        return web.json_response({"url": f"{self._account.url}/api/sandbox/{box.id}/build-logs"})

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        build = self._box(request).order.build
        if build is None:
            raise Refused(404, "Sandbox has no build")
        return await self._account.snapshots.builds.follow(request, build)

    async def run_clocks(self) -> None:
        """Do for ever what is due: end of life, auto-stop, auto-pause, auto-delete."""
        while True:
            await asyncio.sleep(_TICK_S)
            for box in list(self._account.boxes.values()):
                if box.state not in GOING:
                    await self._tick(box)

    async def rest(self, box: Box, seconds: float) -> None:
        """Have the last use be so long ago, and do what is due then."""
        box.clocks.active_at -= seconds
        await self._tick(box)

    async def _tick(self, box: Box) -> None:
        now, clocks = time.time(), box.clocks
        minute_s = self._account.settings.minute_s
        if box.streams:
            box.touch()
        idle = (now - clocks.active_at) / minute_s
        stopped = None if clocks.stopped_at is None else (now - clocks.stopped_at) / minute_s
        if clocks.ttl and now >= box.ends_at():
            await self.destroy(box)
        elif box.state == "started" and clocks.auto_stop and idle >= clocks.auto_stop:
            await self._begin_stop(box)
        elif box.state == "started" and clocks.auto_pause and idle >= clocks.auto_pause:
            await self._begin_pause(box)
        elif stopped is not None and 0 <= clocks.auto_delete <= stopped:
            await self.destroy(box)


def _labels_asked(query: Mapping[str, str]) -> dict[str, str]:
    try:
        found = json.loads(query.get("labels") or "{}")
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise Refused(400, "labels must be a JSON object")
    return strings_of({"labels": found}, "labels")
