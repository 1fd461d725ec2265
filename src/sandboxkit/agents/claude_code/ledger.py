"""What of a lasting CLI's output has been handled, so that each message comes once.

The CLI's output stays in the sandbox until it is acknowledged. Three things move on, each
at its own pace: what has been read; what the application has handled, which is when it asks
for the next event; and what need not come again, which stops at the oldest request of the
CLI that nobody has answered yet, and at the oldest lines of its transcript that the store has
not got yet. The next host begins at the third, and passes over what was handled.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from sandboxkit.agents.claude_code.mirror import mirrored_lines
from sandboxkit.agents.claude_code.note import Counted, Mark, TurnNote, newest, read_mark
from sandboxkit.agents.claude_code.totals import NOTHING, Totals
from sandboxkit.errors import AgentError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandboxkit.agents.claude_code.mirror import MirroredLine
    from sandboxkit.agents.claude_code.note import Note
    from sandboxkit.channel.process import Process

_PRESSED: Final = 768 * 1024  # bytes kept in the sandbox, of the 1 MiB that there is room for
_SILENT: Final = frozenset(
    {"transcript_mirror", "control_request", "control_response", "control_cancel_request"}
)
_POSITION: Final = re.compile(r"([0-9a-f]{16}-\d{1,10})@(\d{1,16})\.(\d{1,9})", re.ASCII)


class Position(NamedTuple):
    """Behind so many events of the message whose line begins at `offset`."""

    offset: int
    events: int

    @classmethod
    def read(cls, text: str, process_id: str) -> Self:
        """What `EventStream.position` has given.

        Raises:
            AgentError: It was not given by this process; code `bad_position`.
        """
        found = _POSITION.fullmatch(text)
        if found is None or found[1] != process_id:
            raise AgentError(
                "This position is not one of the agent that runs now: it belongs to one that has "
                "ended, or was not given by EventStream.position. Without `after`, follow() "
                "begins where the last host has stopped.",
                code="bad_position",
            )
        return cls(int(found[2]), int(found[3]))


class Placed(dict[str, Any]):
    """A message of the CLI, with the place of its line in the output."""

    __slots__ = ("begin", "end")

    def __init__(self, message: dict[str, Any], begin: int, end: int) -> None:
        super().__init__(message)
        self.begin, self.end = begin, end

    def behind(self, number: int, of: int) -> Position:
        """The position behind so many of its events."""
        return Position(self.end, 0) if number == of else Position(self.begin, number)


class Ledger:
    """Keeps account of one CLI's output, here and in the sandbox.

    Args:
        process: The CLI, whose stdout is acknowledged by hand.
        note: What the sandbox has of it.
        mirrors: Whether a store gets its transcript, and says so by `kept`.

    Attributes:
        note: The same, kept up to date.
        at: The position behind the last event that was handled.
        starting: The id of a prompt that is about to be sent.
        urgent: Whether an answer is awaited that may stand behind much output.
    """

    def __init__(self, process: Process, note: Note, *, mirrors: bool = False) -> None:
        self._process = process
        self.note = note
        self._mark = read_mark(process.stdout.mark) or Mark(at=(0, 0))
        self.begins = self._read = process.stdout.begins
        self.at = Position(*self._mark.at)
        self._acked = self._passed = self.begins
        self._pending: dict[str, int] = {}
        self._mirrors = mirrors
        self._mirrored: dict[int, int] = {}  # lines that the store has not got, by their message
        self._silent: dict[int, int] = {}  # where what is not for the application begins and ends
        self._answered = dict.fromkeys(self._mark.answered, 0)
        self._result: tuple[int, str, Totals] | None = None
        self._counted = NOTHING
        self.starting: str | None = None
        self.urgent = 0

    @property
    def prompt_id(self) -> str | None:
        """The prompt whose turn is not followed to its end; None where there is none."""
        turn = self.note.turn
        return None if turn is None or turn.prompt_id == self._mark.over else turn.prompt_id

    @property
    def totals(self) -> Totals:
        """What the CLI had counted before the turn under way, or until now."""
        mark = self._mark
        turn = self.note.turn
        over = mark.totals if turn is not None and mark.over == turn.prompt_id else None
        return (over or self.note.totals).totals()

    def position(self, position: Position) -> str:
        """As it is given to the application."""
        return f"{self._process.id}@{position.offset}.{position.events}"

    def read_position(self, text: str) -> Position:
        """And back.

        Raises:
            AgentError: It was not given by this CLI, or what came after it is gone; code
                `bad_position`.
        """
        position = Position.read(text, self._process.id)
        if position.offset < self.begins and position < self.at:
            raise AgentError(
                "What came after this position has been acknowledged by a host that asked for "
                "more, and is gone. Without `after`, follow() begins where that host has stopped.",
                code="bad_position",
            )
        return position

    # what is read and written

    def read(self, message: dict[str, Any] | None, size: int) -> Placed | None:
        """Take a line of so many bytes; what the SDK is to see of it."""
        begin, self._read = self._read, self._read + size
        if self.urgent and self._is_pressed:
            # An interrupt must come through, whatever stands before its answer. If this host
            # dies now, what it has read and not handled is lost.
            self._acknowledge(self._read)
        if message is None or message.get("type") in _SILENT:
            self._silent[begin] = self._read
        if message is None:
            return None
        name = message.get("request_id")
        if message.get("type") == "control_request" and isinstance(name, str):
            if name in self._answered:
                self._answered[name] = begin
                return None
            self._pending[name] = begin
        elif message.get("type") == "control_cancel_request" and isinstance(name, str):
            self._pending.pop(name, None)
        placed = Placed(message, begin, self._read)
        if self._mirrors and (lines := mirrored_lines(message, begin, self._process.id)):
            self._mirrored[begin] = len(lines)
            placed["entries"] = lines
        return placed

    def came(self) -> None:
        """More of the output has come."""
        if self._is_pressed:
            self._write_mark()

    def kept(self, lines: Sequence[MirroredLine]) -> None:
        """The store has these lines of the transcript."""
        for line in lines:
            left = self._mirrored.pop(line.begin, 1) - 1
            if left:
                self._mirrored[line.begin] = left
        self._write_mark()

    def answered(self, name: object) -> None:
        """A request of the CLI has got its answer."""
        if isinstance(name, str) and name in self._pending:
            self._answered[name] = self._pending.pop(name)
            self._write_mark()

    def begins_turn(self, sent: int) -> Note:
        """The note to be left before a prompt is sent."""
        turn = TurnNote(prompt_id=self.starting or "", sent=sent)
        self.note = self.note.model_copy(update={"turn": turn, "totals": Counted.of(self._counted)})
        self.starting = None
        return self.note

    def starts(self, prompt_id: str, totals: Totals) -> None:
        """A prompt is about to be sent, when the CLI has counted so much."""
        self.starting, self._counted = prompt_id, totals

    # what is handled

    def result(self, message: Placed, prompt_id: str, totals: Totals) -> None:
        """This message is the end of the turn."""
        self._result = (message.end, prompt_id, totals)

    def handled(self, position: Position) -> None:
        """The application has done with all up to here."""
        if position <= self.at:
            return
        self.at = position
        if self._result is not None and position.offset >= self._result[0]:
            _, over, totals = self._result
            self._mark = self._mark.model_copy(update={"over": over, "totals": Counted.of(totals)})
            self._result = None
        self._write_mark()

    def passed(self, message: Placed) -> None:
        """A message that says nothing to the application, behind what it has handled."""
        self._passed = message.end
        self._write_mark()

    def _write_mark(self) -> None:
        done = max(self.at.offset, self._passed)
        while done in self._silent:
            done = self._passed = self._silent.pop(done)
        done = min([done, *self._pending.values()])
        if not self._is_pressed:  # else a store that fails would stop the CLI
            done = min([done, *self._mirrored])
        self._acknowledge(done)

    @property
    def _is_pressed(self) -> bool:
        return self._process.stdout.unacknowledged > _PRESSED

    def _acknowledge(self, offset: int) -> None:
        self._acked = max(self._acked, offset)
        self._answered = {n: at for n, at in self._answered.items() if not 0 < at < self._acked}
        self._mirrored = {at: n for at, n in self._mirrored.items() if at >= self._acked}
        self._silent = {at: end for at, end in self._silent.items() if at >= self._acked}
        answered = newest(tuple(self._answered))
        self._mark = self._mark.model_copy(update={"at": tuple(self.at), "answered": answered})
        text = self._mark.model_dump_json(exclude_defaults=True)
        self._process.stdout.acknowledge(self._acked, text)
