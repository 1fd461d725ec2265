"""The model as a sandbox sees it: a port on this machine that adds the credential.

Bytes pass as they come. What a request asks for is checked before it leaves the host, and
what the answer says of its tokens is read as it passes by.
"""

from __future__ import annotations

import hmac
import json
import logging
import re
import secrets
import ssl
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from http import HTTPStatus
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, cast

import anyio
import anyio.to_thread
import httpx

from sandboxkit.errors import BudgetExceededError
from sandboxkit.gateway.model.account import Account
from sandboxkit.gateway.model.budget import Hold, Worst
from sandboxkit.gateway.model.meter import ModelCall
from sandboxkit.gateway.model.readers import Tally, reader_for
from sandboxkit.gateway.model.server import Answer, HttpServer, RefusedError, Request
from sandboxkit.gateway.model.web import without_web
from sandboxkit.usage import Usage

if TYPE_CHECKING:
    from sandboxkit.gateway.model.upstream import Upstream

log = logging.getLogger(__name__)

_CONNECT_S: Final = 30.0
_SETTLE_S: Final = 5.0
_SILENCE_S: Final = 600.0  # the Messages API pings a stream more often than that
_MOST_TOKENS: Final = 64_000  # where a request does not say
_COUNTS: Final = re.compile(r"/count[_-]tokens(:\w+)?$")
_KEPT_HEADERS: Final = frozenset(
    {"content-type", "request-id", "x-request-id", "retry-after", "x-should-retry"}
)
_KEPT_PREFIXES: Final = ("anthropic-", "x-amzn-")


@dataclass(slots=True)
class _Exchange:
    """One request under way, for its account."""

    began: float
    at: datetime
    model: str | None = None
    counted: bool = False
    status: int = 0
    admitted: float | None = None
    first_byte: float | None = None
    tally: Tally = field(default_factory=Tally)
    refused: str | None = None
    over_budget: BudgetExceededError | None = None
    holds: list[Hold] = field(default_factory=list[Hold])


class ModelEndpoint:
    """Serves one session while its `async with` block runs.

    Args:
        upstream: The service, and the credential for it.
        account: What may be asked, and where it is kept what was; None is without limits.
        web: Whether server-side tools that reach the web pass. Where not, they are taken
            out of requests (they would go past every rule of the network).
        token: The token of an endpoint before this one, for a client that outlives it; None
            makes one.

    Attributes:
        token: What a request must carry. It is worth nothing elsewhere or later.
        port: Where it listens on 127.0.0.1.
        port_inside: Where the tunnel to it listens in the sandbox; None where there is none.
        account: See there.
    """

    def __init__(
        self,
        upstream: Upstream,
        account: Account | None = None,
        *,
        web: bool = False,
        token: str | None = None,
    ) -> None:
        self._upstream = upstream
        self._web = web
        self._client: httpx.AsyncClient | None = None
        self._stack = AsyncExitStack()
        self._server = HttpServer(self._handle)
        self._under_way = 0
        self._settled = anyio.Event()
        self.account = account if account is not None else Account()
        self.port_inside: int | None = None
        self.token = token or f"sandboxkit-{secrets.token_urlsafe(24)}"

    @property
    def port(self) -> int:
        """See the class."""
        return self._server.port

    async def __aenter__(self) -> Self:
        context = await anyio.to_thread.run_sync(self._get_ready)
        async with AsyncExitStack() as stack:
            client = httpx.AsyncClient(
                verify=context, timeout=httpx.Timeout(_SILENCE_S, connect=_CONNECT_S)
            )
            self._client = await stack.enter_async_context(client)
            await stack.enter_async_context(self._server)
            self._stack = stack.pop_all()
        self.account.routes.add(self)
        return self

    def _get_ready(self) -> ssl.SSLContext:
        """What reads files or imports much: not on the loop."""
        self.account.meter.cost("claude-haiku-4-5", self._upstream.price_provider, Usage(1, 1))
        self._upstream.check()
        return ssl.create_default_context()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.account.routes.discard(self)
        self.token = secrets.token_urlsafe(24)  # whoever still has the old one has nothing
        await self._stack.aclose()

    def environment(self, host: str, port: int) -> dict[str, str]:
        """What Claude Code needs where the endpoint is reached at this address."""
        return self._upstream.environment(f"http://{host}:{port}/{self.token}", self.token)

    async def settled(self) -> None:
        """Wait until no request is under way: all that came is then in the account.

        A client has the end of its answer a moment before that. It waits 5 s at most.
        """
        with anyio.move_on_after(_SETTLE_S):
            while self._under_way:
                await self._settled.wait()

    # one request

    async def _handle(self, request: Request, answer: Answer) -> None:
        self._under_way += 1
        try:
            await self._exchange(request, answer)
        finally:
            self._under_way -= 1
            self._settled.set()
            self._settled = anyio.Event()

    async def _exchange(self, request: Request, answer: Answer) -> None:
        exchange = _Exchange(time.monotonic(), datetime.now(UTC))
        try:
            request = self._let_in(request)
            body = _json(request.body)
            exchange.model = self._upstream.model_of(request, body)
            exchange.counted = request.method == "POST"
            body_out = self._checked(request, body, exchange.model)
            if exchange.counted and exchange.model is not None:
                await self._admit(exchange, exchange.model, request, body)
            exchange.admitted = time.monotonic()
            await self._forward(request, body_out, answer, exchange)
        except RefusedError as refusal:
            exchange.refused, exchange.status = str(refusal), refusal.status
            raise
        finally:
            self._account(exchange)

    def _let_in(self, request: Request) -> Request:
        """The request without its token, which must be right."""
        _, _, rest = request.target.partition("/")
        first, slash, path = rest.partition("/")
        given = first if first.startswith("sandboxkit-") else ""
        target = f"/{path}" if given and slash else "/" if given else request.target
        bearer = request.header("authorization").removeprefix("Bearer ")
        given = given or request.header("x-api-key") or bearer
        if not hmac.compare_digest(given.encode(), self.token.encode()):
            raise RefusedError(
                HTTPStatus.UNAUTHORIZED,
                "authentication_error",
                "This is not the token of this session.",
            )
        return replace(request, target=target)

    def _checked(self, request: Request, body: Mapping[str, Any], model: str | None) -> bytes:
        """The body as it may leave the host."""
        allowed = self.account.models
        if None not in (allowed, model) and not _any_fits(str(model), allowed or ()):
            raise RefusedError(
                HTTPStatus.FORBIDDEN,
                "permission_error",
                f"The model {model} is not allowed in this session; allowed: "
                f"{', '.join(allowed or ()) or 'none'}.",
            )
        return request.body if self._web else without_web(request.body, body)

    async def _admit(
        self, exchange: _Exchange, model: str, request: Request, body: Mapping[str, Any]
    ) -> None:
        """Wait until every budget has room for it."""
        budgets = sorted(self.account.budgets, key=id)  # one order for all: no two wait in a ring
        if not budgets:
            return
        most = _most(request, body)
        usd: float | None = 0.0
        if any(budget.has_usd for budget in budgets):
            usd = self.account.meter.cost(model, self._upstream.price_provider, most)
        worst = Worst(usd, most.total_tokens)
        try:
            for budget in budgets:
                exchange.holds.append(await budget.hold(worst))
        except BudgetExceededError as error:
            for hold in exchange.holds:
                hold.cancel()
            exchange.over_budget = error
            # Not 403: Claude Code would take it for a wrong key. Not 429 or 5xx: for an outage.
            raise RefusedError(
                HTTPStatus.PAYMENT_REQUIRED,
                "budget_exceeded",
                f"Refused by the host, not by the service: {error.message}. Asking again will "
                "not help.",
                {"x-should-retry": "false"},
            ) from error
        except BaseException:
            for hold in exchange.holds:
                hold.cancel()
            raise

    async def _forward(
        self, request: Request, body: bytes, answer: Answer, exchange: _Exchange
    ) -> None:
        if self._client is None:
            raise RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, "api_error", "The session is over.")
        out = await self._upstream.outgoing(request, body)
        sending = self._client.build_request(
            request.method, out.url, headers=dict(out.headers), content=out.body or None
        )
        try:
            response = await self._client.send(sending, stream=True)
        except httpx.HTTPError as error:
            log.warning("the model at %s cannot be reached: %r", sending.url.host, error)
            raise RefusedError(
                HTTPStatus.BAD_GATEWAY,
                "api_error",
                f"The model at {sending.url.host} cannot be reached from the host.",
            ) from error
        try:
            exchange.status, exchange.first_byte = response.status_code, time.monotonic()
            reader = reader_for(response.headers.get("content-type", ""), exchange.tally)
            await answer.start(response.status_code, _head(response))
            left = int(response.headers.get("content-length") or -1)
            async for chunk in response.aiter_raw():
                reader.feed(chunk)
                left -= len(chunk)
                if left == 0:
                    reader.end()
                if exchange.tally.complete:
                    self._account(exchange)  # before the client has the end, and acts upon it
                await answer.send(chunk)
            reader.end()
            self._account(exchange)
            await answer.end()
        except httpx.HTTPError as error:
            raise ConnectionAbortedError from error
        finally:
            await response.aclose()

    def _account(self, exchange: _Exchange) -> None:
        """Take it into the account, once."""
        if not exchange.counted:
            return
        exchange.counted = False
        if exchange.admitted is None and exchange.refused is None:
            exchange.refused = "The client left before there was room in the budget."
        usage, cost = exchange.tally.usage, None
        if usage is not None:
            cost = self.account.meter.cost(exchange.model, self._upstream.price_provider, usage)
        for hold in exchange.holds:
            hold.end(usd=cost or 0.0, tokens=usage.total_tokens if usage else 0)
        began = exchange.began if exchange.admitted is None else exchange.admitted

        def since(moment: float | None) -> float | None:
            return None if moment is None else moment - began

        self.account.meter.add(
            ModelCall(
                at=exchange.at,
                began=exchange.began,
                model=exchange.model,
                status=exchange.status,
                usage=usage,
                cost_usd=cost,
                queued_s=began - exchange.began,
                first_byte_s=since(exchange.first_byte),
                first_token_s=since(exchange.tally.first_token_at),
                total_s=time.monotonic() - began,
                complete=exchange.tally.complete,
                refused=exchange.refused,
                over_budget=exchange.over_budget,
            )
        )


def _most(request: Request, body: Mapping[str, Any]) -> Usage:
    """The most that a request can spend: a token has hardly less than three bytes of JSON."""
    if _COUNTS.search(request.target.partition("?")[0]):
        return Usage()  # it asks how many tokens there would be, which costs none
    asked = body.get("max_tokens")
    read = len(request.body) // 3
    return Usage(
        cache_creation_tokens=read,  # nothing that is read costs more
        cache_creation_1h_tokens=read if b'"1h"' in request.body else 0,
        output_tokens=asked if isinstance(asked, int) and asked > 0 else _MOST_TOKENS,
    )


def _any_fits(model: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(model, pattern) for pattern in patterns)


def _json(body: bytes) -> Mapping[str, Any]:
    if not body:
        return {}
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise RefusedError(
            HTTPStatus.BAD_REQUEST, "invalid_request_error", "The body is not a JSON object."
        )
    return cast("dict[str, Any]", found)


def _head(response: httpx.Response) -> list[tuple[bytes, bytes]]:
    """What the sandbox gets to see of the head: no cookie, no name of the account."""
    kept = [
        (name, value)
        for name, value in response.headers.raw
        if name.lower().decode("latin-1") in _KEPT_HEADERS
        or name.lower().decode("latin-1").startswith(_KEPT_PREFIXES)
    ]
    if response.status_code == HTTPStatus.UNAUTHORIZED:
        # The host's key is wrong, and stays so: the CLI would ask eleven times, for minutes.
        kept = [(name, value) for name, value in kept if name.lower() != b"x-should-retry"]
        kept.append((b"x-should-retry", b"false"))
    length = response.headers.get("content-length")
    framing = ("content-length", length) if length is not None else ("transfer-encoding", "chunked")
    return [*kept, (framing[0].encode(), framing[1].encode())]
