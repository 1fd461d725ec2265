"""All that happens in a session, as one stream of lines, and in Python's `logging`."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Literal, Self
from weakref import WeakSet

from sandboxkit.listeners import Listeners
from sandboxkit.redaction import Redactor

LOGGER: Final = "sandboxkit.session"
"""The logger that gets each line, with `extra`: source, session, sandbox, turn, event, fields."""

Source = Literal[
    "session", "turn", "agent", "model", "budget", "network", "sandbox", "store", "log"
]

_logger = logging.getLogger(LOGGER)
_logger.addHandler(logging.NullHandler())  # who has configured nothing sees nothing

_REMEMBERED: Final = 1000
_WAITING: Final = 10_000
_LONGEST: Final = 4000  # characters of a message, or of one field
_SEVERITY: Final = {10: 5, 20: 9, 30: 13, 40: 17, 50: 21}  # OpenTelemetry's numbers


@dataclass(frozen=True, slots=True)
class LogLine:
    """Something that has happened.

    No value of the environment, no secret, key or token is in it, and neither prompts nor
    answers are.

    Attributes:
        at: When, aware, UTC, by this machine's clock.
        level: As in `logging`: `logging.INFO` and so on.
        source: Where it comes from.
        event: What it is, for programs, such as `model.request`: see docs/observability.md.
        session: The id of the session.
        sandbox: The id of its sandbox; None while there is none.
        turn: The number of the prompt that was being worked on, from 1; None between prompts.
        message: What it is, for people.
        fields: Figures and names, where they have one by OpenTelemetry's conventions.
    """

    at: datetime
    level: int
    source: Source
    event: str
    session: str
    sandbox: str | None
    turn: int | None
    message: str
    fields: Mapping[str, object] = field(default_factory=dict[str, object])

    def __str__(self) -> str:
        turn = "" if self.turn is None else f" [turn {self.turn}]"
        at, level = self.at.isoformat(timespec="milliseconds"), logging.getLevelName(self.level)
        return f"{at} {level} {self.source}{turn} {self.message}"

    def as_dict(self) -> dict[str, object]:
        """As OpenTelemetry's log data model has it."""
        attributes: dict[str, object] = {
            "event.name": f"sandboxkit.{self.event}",
            "sandboxkit.source": self.source,
            "session.id": self.session,
            "sandboxkit.sandbox.id": self.sandbox,
            "sandboxkit.turn": self.turn,
            **self.fields,
        }
        return {
            "timestamp": self.at.isoformat(),
            "severity_text": logging.getLevelName(self.level),
            "severity_number": _SEVERITY.get(self.level, 0),
            "body": self.message,
            "attributes": {name: value for name, value in attributes.items() if value is not None},
        }

    def as_json(self) -> str:
        """One line of JSON."""
        return json.dumps(self.as_dict(), ensure_ascii=False, default=str)


class LogStream:
    """Lines, for `async for`; it ends when the session is closed.

    Of a reader who is more than 10,000 lines behind, the oldest are dropped, and a line of
    the source `log` says how many.

    Attributes:
        dropped: How many have been dropped in all.
    """

    def __init__(self, log: SessionLog) -> None:
        self._log = log
        self._waiting: deque[LogLine] = deque()
        self._changed = asyncio.Event()
        self._closed = False
        self._unsaid = 0
        self.dropped = 0

    def put(self, line: LogLine) -> None:
        """One more."""
        if len(self._waiting) >= _WAITING:
            self._waiting.popleft()
            self.dropped += 1
            self._unsaid += 1
        self._waiting.append(line)
        self._changed.set()

    def close(self) -> None:
        """There will be no more: what waits can still be read."""
        self._closed = True
        self._changed.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> LogLine:
        while not self._waiting:
            if self._closed:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        if self._unsaid:
            lost, self._unsaid = self._unsaid, 0
            return self._log.line(
                *(logging.WARNING, "log", "log.dropped"),
                f"{lost} lines were dropped: the reader was too slow",
                {"sandboxkit.log.dropped": lost},
            )
        return self._waiting.popleft()

    async def aclose(self) -> None:
        """Read no more."""
        self._log.forget(self)
        self._waiting.clear()
        self.close()


class SessionLog:
    """What happens in one session, as `session.log`. For its event loop.

    Args:
        place: The ids of now: of the session, of its sandbox, and the number of the prompt.
        redactor: Takes secrets out.
    """

    def __init__(
        self, place: Callable[[], tuple[str, str | None, int | None]], redactor: Redactor
    ) -> None:
        self._place = place
        self._redactor = redactor
        self._lines: deque[LogLine] = deque(maxlen=_REMEMBERED)
        self._listeners = Listeners[LogLine]("session.log")
        self._streams: WeakSet[LogStream] = WeakSet()
        self._closed = False

    def __repr__(self) -> str:
        return f"<SessionLog of {self._place()[0]}>"

    @property
    def lines(self) -> tuple[LogLine, ...]:
        """The last 1,000, oldest first."""
        return tuple(self._lines)

    def listen(self, listener: Callable[[LogLine], object]) -> Callable[[], None]:
        """Have each line told to a function, on the event loop, as it is written.

        What it raises is logged.

        Returns:
            What ends it.
        """
        return self._listeners.add(listener)

    def follow(self, *, past: bool = False) -> LogStream:
        """The lines from now on, as `session.logs()`.

        Args:
            past: Whether it begins with the last 1,000 that there were.
        """
        stream = LogStream(self)
        for line in self._lines if past else ():
            stream.put(line)
        if self._closed:
            stream.close()
        else:
            self._streams.add(stream)
        return stream

    def forget(self, stream: LogStream) -> None:
        """Called by a stream that is read no more."""
        self._streams.discard(stream)

    # for the session

    def line(
        self,
        level: int,
        source: Source,
        event: str,
        message: str,
        fields: Mapping[str, object] | None = None,
        *,
        turn: int | None = None,
    ) -> LogLine:
        """A line of now, without secrets. It is not written."""
        session, sandbox, now = self._place()
        clean = {name: self._clean(value) for name, value in (fields or {}).items()}
        return LogLine(
            at=datetime.now(UTC),
            level=level,
            source=source,
            event=event,
            session=session,
            sandbox=sandbox,
            turn=now if turn is None else turn,
            message=self._text(message),
            fields={name: value for name, value in clean.items() if value is not None},
        )

    def write(
        self,
        level: int,
        source: Source,
        event: str,
        message: str,
        fields: Mapping[str, object] | None = None,
        *,
        turn: int | None = None,
    ) -> None:
        """Write a line. Never raises."""
        try:
            line = self.line(level, source, event, message, fields, turn=turn)
            self._lines.append(line)
            for stream in list(self._streams):
                stream.put(line)
            self._tell(line)
        except Exception:
            logging.getLogger(__name__).exception("a line of the log could not be written")

    def _tell(self, line: LogLine) -> None:
        self._listeners.tell(line)
        if _logger.isEnabledFor(line.level):
            extra = {
                "source": line.source,
                "event": line.event,
                "session": line.session,
                "sandbox": line.sandbox,
                "turn": line.turn,
                "fields": dict(line.fields),
            }
            _logger.log(line.level, "%s", line.message, extra=extra)

    def _clean(self, value: object) -> object:
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, list | tuple):
            return [self._text(str(each)) for each in value]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        return self._text(str(value))

    def _text(self, text: str) -> str:
        """One line, without secrets, of a bearable length, with nothing that moves a cursor."""
        text = self._redactor.clean(text)
        if not text.isprintable():
            text = "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)
        return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ... ({len(text)} characters)"

    def close(self) -> None:
        """The session is over: who follows comes to the end."""
        self._closed = True
        for stream in list(self._streams):
            stream.close()
        self._streams.clear()
