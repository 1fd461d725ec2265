"""The scripted model: a Messages API server that answers from a script."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeAlias

import anyio

from sandboxkit.testing.scripted_model import wire
from sandboxkit.testing.scripted_model.answer import Answer, refuse
from sandboxkit.testing.scripted_model.http import Connection, HttpRequest, HttpServer
from sandboxkit.testing.scripted_model.request import (
    ModelRequest,
    claude_code_side_request,
    parse_request,
)
from sandboxkit.testing.scripted_model.steps import Step, answer_of, fail, say

Reaction: TypeAlias = Callable[[ModelRequest], Step | Awaitable[Step]]
"""A step that looks at the request first; it may wait for something."""

END_OF_SCRIPT = "(the script has ended)"
_MESSAGES = "/v1/messages"
_COUNT_TOKENS = "/v1/messages/count_tokens"


@dataclass(frozen=True, slots=True)
class HangUp:
    """A client closed its connection before it had the whole answer.

    Attributes:
        request: What it had asked.
        events: How many events it had been sent.
    """

    request: ModelRequest
    events: int


class ScriptedModel:
    """A server that speaks the Messages API on loopback and answers from a script.

    ```python
    model = ScriptedModel([
        call("Bash", command="pytest -q"),
        [say("Fixed."), call("Write", file_path="/work/a", content="x")],
        fail(529),
        say("All done."),
    ])
    async with model as server:
        ...  # a client whose base URL is server.url
    assert not model.unused
    ```

    It runs on the loop of its caller, which must not be blocked meanwhile. A client's retry is a
    request like any other, and takes the next step. Requests beside the conversation take none.

    Args:
        script: The steps, one for each request; or one function that answers every request.
            A step may itself be a function of the request, and a function may be async.
        is_side_request: Which requests are not of the conversation. Default: what Claude Code
            asks for its own purposes; of other clients, none.
        side_step: The answer to those.

    Attributes:
        requests: What was asked in the conversation, in order.
        side_requests: What was asked beside it, counts of tokens among them.
        hang_ups: The clients that left before the end of an answer.
        exhausted: Whether more was asked than the script holds. The answer was `END_OF_SCRIPT`.

    Raises:
        TypeError: Something in the script is no step.
    """

    def __init__(
        self,
        script: Sequence[Step | Reaction] | Reaction,
        *,
        is_side_request: Callable[[ModelRequest], bool] = claude_code_side_request,
        side_step: Step | Reaction = say("OK"),  # noqa: B008 - a frozen value
    ) -> None:
        self._react: Reaction | None = script if callable(script) else None
        self._script: tuple[Step | Reaction, ...] = () if callable(script) else tuple(script)
        for step in (*self._script, side_step):
            if not callable(step):
                answer_of(step)
        self._next = 0
        self._is_side_request = is_side_request
        self._side_step = side_step
        self._http = HttpServer(self._handle)
        self._port: int | None = None
        self._script_error: Exception | None = None
        self._changed = asyncio.Event()
        self.requests: list[ModelRequest] = []
        self.side_requests: list[ModelRequest] = []
        self.hang_ups: list[HangUp] = []
        self.exhausted = False

    @property
    def url(self) -> str:
        """The base URL for a client, without a path.

        Raises:
            RuntimeError: The server is not running.
        """
        if self._port is None:
            raise RuntimeError("The scripted model is not running; use `async with`.")
        return f"http://127.0.0.1:{self._port}"

    @property
    def unused(self) -> tuple[Step | Reaction, ...]:
        """The steps that no request has taken."""
        return self._script[self._next :]

    async def __aenter__(self) -> Self:
        self._port = await self._http.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._port = None
        await self._http.aclose()
        if self._script_error is not None and exc is None:
            raise self._script_error

    async def wait_until(self, condition: Callable[[], object], *, timeout_s: float = 10.0) -> None:
        """Wait until `condition` holds; it is tried whenever something has been recorded.

        `await model.wait_until(lambda: model.hang_ups)`

        Raises:
            TimeoutError: It did not hold within `timeout_s` seconds.
        """
        with anyio.move_on_after(timeout_s):
            while not condition():
                await self._changed.wait()
            return
        raise TimeoutError(
            f"The condition did not hold within {timeout_s:g} s; the scripted model has seen "
            f"{len(self.requests)} requests, {len(self.side_requests)} side requests and "
            f"{len(self.hang_ups)} hang-ups."
        )

    def _note_change(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _handle(self, http: HttpRequest, connection: Connection) -> None:
        if http.method == "HEAD":
            await connection.respond_to_head()
        elif http.method == "GET" and http.path == "/":
            await connection.respond(200, b"{}")
        elif http.method != "POST" or http.path not in {_MESSAGES, _COUNT_TOKENS}:
            await refuse(connection, fail(404, f"There is no {http.method} {http.path}."))
        else:
            try:
                request = parse_request(http.path, http.headers, http.body)
            except ValueError as exc:
                await refuse(connection, fail(400, str(exc)))
            else:
                await self._take(request, connection)

    async def _take(self, request: ModelRequest, connection: Connection) -> None:
        """Record a well-formed request, and answer it."""
        side = request.path == _COUNT_TOKENS or self._is_side_request(request)
        (self.side_requests if side else self.requests).append(request)
        step = self._side_step if side else self._next_step()
        self._note_change()
        if request.path == _COUNT_TOKENS:
            await connection.respond(200, _token_count(request))
            return
        answer = Answer(request, connection)
        if not await connection.unless_hung_up(self._perform(step, answer)):
            connection.keep_alive = False
            self.hang_ups.append(HangUp(request, answer.events))
            self._note_change()

    def _next_step(self) -> Step | Reaction:
        if self._react is not None:
            return self._react
        if self._next == len(self._script):
            self.exhausted = True
            return say(END_OF_SCRIPT)
        self._next += 1
        return self._script[self._next - 1]

    async def _perform(self, step: Step | Reaction, answer: Answer) -> None:
        try:
            if callable(step):
                reaction = step(answer.request)
                step = await reaction if inspect.isawaitable(reaction) else reaction
            reply = answer_of(step)
        except Exception as exc:  # noqa: BLE001 - raised when the caller leaves the block
            self._script_error = self._script_error or exc
            # 400, since clients soon give it up; a 500 is retried for minutes.
            reply = fail(400, f"The script raised {type(exc).__name__}: {exc}")
        await answer.give(reply)


def _token_count(request: ModelRequest) -> bytes:
    """An estimate: four bytes of JSON make a token."""
    return wire.encode({"input_tokens": len(wire.encode(request.body)) // 4})
