"""What one host leaves in the sandbox for the next: a note of the CLI, and a mark in its output.

Both are in the guest's memory, which the agent cannot reach where the guest is another user.
All the same they come out of a sandbox: they are checked by their shape, and what does not
fit is no note.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, ValidationError

from sandboxkit.agents.claude_code.totals import Totals
from sandboxkit.usage import Usage

_MOST: Final = 2**53
_ANSWER: Final = 6 * 1024  # characters of what the CLI answered; its list of commands has more
_ANSWERED: Final = 150  # requests of the CLI whose answers are remembered

Count = Annotated[int, Field(ge=0, le=_MOST)]
Path = Annotated[str, Field(pattern=r"\A/[^\0\n]{0,1023}\Z")]
RequestId = Annotated[str, Field(pattern=r"\A[\x21-\x7e]{1,100}\Z")]


class _Shape(BaseModel):
    model_config = ConfigDict(
        allow_inf_nan=False, strict=True, frozen=True, regex_engine="python-re"
    )


class Counted(_Shape):
    """`Totals`, as they are written down."""

    usage: tuple[NonNegativeInt, NonNegativeInt, NonNegativeInt, NonNegativeInt] = (0, 0, 0, 0)
    cost_usd: NonNegativeFloat = 0.0

    @classmethod
    def of(cls, totals: Totals) -> Counted:
        """From what the conversation counts with."""
        used = totals.usage
        counts = (used.input_tokens, used.output_tokens)
        cached = (used.cache_read_tokens, used.cache_creation_tokens)
        return cls(usage=(*counts, *cached), cost_usd=totals.cost_usd)

    def totals(self) -> Totals:
        """And back."""
        return Totals(Usage(*self.usage), self.cost_usd)


class TurnNote(_Shape):
    """The turn under way.

    Attributes:
        prompt_id: The id of its prompt.
        sent: Where the prompt ends in the CLI's input: it was sent if so much has arrived.
    """

    prompt_id: RequestId
    sent: Count


class Note(_Shape):
    """What the next host must know of a running CLI.

    Attributes:
        session: The id of the conversation.
        port: Where the CLI asks for the model, on its loopback.
        token: What it shows there; worth nothing elsewhere.
        config_dir: Its `CLAUDE_CONFIG_DIR`.
        cwd: Its working directory.
        answer: What it has answered to `initialize`, without its longest parts.
        totals: What it had counted before the turn.
        turn: The last turn; None before the first.
    """

    v: Literal[1] = 1
    agent: Literal["claude-code"] = "claude-code"
    session: Annotated[str, Field(pattern=r"\A[0-9a-f-]{36}\Z")]
    port: Annotated[int, Field(ge=1, le=65535)]
    token: Annotated[str, Field(pattern=r"\Asandboxkit-[A-Za-z0-9_-]{16,64}\Z")] = Field(repr=False)
    config_dir: Path
    cwd: Path
    answer: dict[str, Any] = {}
    totals: Counted = Counted()
    turn: TurnNote | None = None

    def with_answer(self, answer: dict[str, Any]) -> Note:
        """The same with what the CLI has answered, as far as there is room for it."""
        kept = dict(answer)
        while kept and len(json.dumps(kept)) > _ANSWER:
            del kept[max(kept, key=lambda name: len(json.dumps(kept[name])))]
        return self.model_copy(update={"answer": kept})


class Mark(_Shape):
    """How far the CLI's output has been handled.

    Attributes:
        at: The position: the offset of a message's line, and how many of its events. An
            offset with no events is the end of what was handled.
        answered: Requests of the CLI that have been answered, and may be read again.
        over: The id of the last prompt whose turn has been followed to its end.
        totals: What the CLI had counted then.
    """

    at: tuple[Count, Count]
    answered: tuple[RequestId, ...] = ()
    over: RequestId | None = None
    totals: Counted | None = None


def read_note(text: str) -> Note | None:
    """The note of a process; None where it is none of ours, or not to be believed."""
    try:
        return Note.model_validate_json(text)
    except (ValidationError, ValueError, RecursionError):
        return None


def read_mark(text: str) -> Mark | None:
    """Likewise for a mark."""
    try:
        mark = Mark.model_validate_json(text)
    except (ValidationError, ValueError, RecursionError):
        return None
    return mark if len(mark.answered) <= _ANSWERED else None


def newest(answered: tuple[str, ...]) -> tuple[str, ...]:
    """As many as a mark has room for."""
    return answered[-_ANSWERED:]
