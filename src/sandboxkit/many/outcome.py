"""What became of one input, and of all so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar, cast

I = TypeVar("I")  # noqa: E741 - an input
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Outcome(Generic[I, V]):
    """What became of one input: a value or an error.

    Attributes:
        index: Its place among the inputs, from 0 on.
        input: The input.
        value: What the task gave; None where there is an error.
        error: Why there is no value; None where there is one. That an agent failed is no
            error: see `RunResult.is_error`.
        attempts: How often the task was begun; 0 where it was not, the budget being spent.
        resumed: Whether it comes from the journal, of an earlier run.
    """

    index: int
    input: I
    value: V | None
    error: Exception | None
    attempts: int
    resumed: bool = False

    def result(self) -> V:
        """The value.

        Raises:
            Exception: The error, where there is one.
        """
        if self.error is not None:
            raise self.error
        return cast("V", self.value)


@dataclass(frozen=True, slots=True)
class MapProgress:
    """How far it is.

    Attributes:
        total: How many inputs there are; None where they do not say.
        done: How many have a value, those of the journal included.
        failed: How many have an error.
        running: How many are under way.
        retried: How often a sandbox has failed, and its task was begun again.
        resumed: How many came from the journal.
    """

    total: int | None = None
    done: int = 0
    failed: int = 0
    running: int = 0
    retried: int = 0
    resumed: int = 0
