"""The loop: ask the model, run what it calls, ask again, until it has nothing to call."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import anyio

from sandboxkit.agents.events import Event, Message, ToolCall, ToolResult
from sandboxkit.agents.messages import caching
from sandboxkit.agents.messages.failures import BUDGET, Failure, failure_of
from sandboxkit.agents.messages.history import UNANSWERED, tool_result
from sandboxkit.agents.messages.model import Model, blocks_of, without_calls
from sandboxkit.agents.messages.tools.tool import Block, ToolOutput

if TYPE_CHECKING:
    from anthropic.types import ParsedMessage

    from sandboxkit.agents.latency import Span
    from sandboxkit.agents.messages.history import History
    from sandboxkit.agents.messages.tools.toolbox import Toolbox

_INTERRUPTED: Final = "[The user has interrupted this.]"
_CUT: Final = {
    "max_tokens": "The answer was cut off at max_tokens; give the agent more.",
    "model_context_window_exceeded": "The conversation has filled the model's context window.",
}


@dataclass(frozen=True, slots=True)
class End:
    """How a run has ended; see `RunResult`."""

    stop_reason: str
    text: str = ""
    errors: tuple[str, ...] = ()
    raw: object = field(default=None, repr=False)


class Run:
    """One prompt, from the first request to the end.

    Whatever ends it, the history is one that the API takes.

    Args:
        prompt: What the user says.
        request: The fields of each request, without the messages.
        history: The conversation so far; the run is added to it.
        model: Answers.
        toolbox: Runs the calls.
        emit: Takes the events, `Finished` excepted.
        max_turns: How often the model is asked at most; None is without a limit.
        cache: How long the API keeps what it has read; None marks nothing.

    Attributes:
        turns: How often the model was asked.
        tools: When at least one call was open.
    """

    def __init__(
        self,
        prompt: str,
        *,
        request: Mapping[str, Any],
        history: History,
        model: Model,
        toolbox: Toolbox,
        emit: Callable[[Event], None],
        max_turns: int | None,
        cache: str | None,
    ) -> None:
        self._prompt = prompt
        self._request = request
        self._history = history
        self._model = model
        self._toolbox = toolbox
        self._emit = emit
        self._max_turns = max_turns
        self._cache = cache
        self._scope = anyio.CancelScope()
        self.turns = 0
        self.tools: list[Span] = []

    def interrupt(self) -> None:
        """Stop it, also before it has begun."""
        self._scope.cancel()

    async def to_end(self) -> End:
        """Do it all.

        Raises:
            SandboxError: The sandbox is lost, or the history cannot be kept.
        """
        start = len(self._history.messages)
        self._history.add("user", [{"type": "text", "text": self._prompt}])
        end: End | None = None
        try:
            with self._scope:
                end = await self._rounds(start)
            if end is None:
                end = self._interrupted()
        except Exception as error:
            failure = failure_of(error)
            if failure is None:
                raise
            end = self._failed(failure, error, start)
        finally:
            with anyio.CancelScope(shield=True):
                await self._history.save()
        return end

    async def _rounds(self, start: int) -> End:
        while self._max_turns is None or self.turns < self._max_turns:
            self.turns += 1
            message = await self._model.ask(self._next_request())
            self._model.forget()
            end = await self._take(message, start)
            await self._history.save()
            if end is not None:
                return end
        limit = f"The model has been asked {self.turns} times, which is the limit (max_turns)."
        return End("max_turns", errors=(limit,))

    def _next_request(self) -> dict[str, Any]:
        request = {**self._request, "messages": list(self._history.messages)}
        return request if self._cache is None else caching.marked(request, self._cache)

    async def _take(self, message: ParsedMessage[None], start: int) -> End | None:
        """Put an answer into the history, and do what it calls; the end, if it is one."""
        stop = message.stop_reason or "end_turn"
        content = blocks_of(message)
        text = "".join(block["text"] for block in content if block["type"] == "text")
        if stop in _CUT:
            content = without_calls(content)  # the last may be half a call
        if content:
            self._history.add("assistant", content)
        self._emit(Message("assistant", text, raw=message))
        calls = [block for block in content if block["type"] == "tool_use"]
        for call in calls:
            self._emit(ToolCall(call["id"], call["name"], call["input"], raw=message))
        if stop == "refusal":
            # The service asks for this: the same conversation would be refused again.
            self._history.cut(start)
            details = message.stop_details
            why = details.explanation if details is not None else None
            return End(stop, text, (why or "The model has refused to go on.",), message)
        if stop in _CUT:
            return End(stop, text, (_CUT[stop],), message)
        if calls:
            await self._run_tools(calls)
            return None
        if stop == "pause_turn" and content:
            return None
        return End("end_turn" if stop == "tool_use" else stop, text, raw=message)

    async def _run_tools(self, calls: Sequence[Block]) -> None:
        results: dict[str, Block] = {}
        began = time.monotonic()

        def done(call: Block, output: ToolOutput) -> None:
            content = output.content
            block = tool_result(call["id"], content, is_error=output.is_error)
            results[call["id"]] = block
            self._emit(Message("user", "", raw=block))
            self._emit(ToolResult(call["id"], output.text, output.is_error, raw=block))

        try:
            await self._toolbox.run(calls, done)
        finally:
            self.tools.append((began, time.monotonic()))
            for call in calls:
                if call["id"] not in results:
                    done(call, ToolOutput(UNANSWERED, is_error=True))
            self._history.add("user", [results[call["id"]] for call in calls])

    def _interrupted(self) -> End:
        content = self._model.partial()
        if content:
            self._history.add("assistant", content)
            text = "".join(block["text"] for block in content if block["type"] == "text")
            self._emit(Message("assistant", text, raw=content))
        self._history.add("user", [{"type": "text", "text": _INTERRUPTED}])
        return End("interrupted", errors=("The run was interrupted.",))

    def _failed(self, failure: Failure, error: Exception, start: int) -> End:
        if failure.is_of_the_request:
            self._history.cut(start)  # or every later prompt would be refused as well
        reason = "max_budget" if failure.kind == BUDGET else "error"
        return End(reason, errors=(str(failure),), raw=error)
