"""Promises that a provider does not keep, said openly in its own test file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sandboxkit.testing.conformance.promise import PROMISES


@dataclass(frozen=True, slots=True)
class KnownDifference:
    """A promise that a provider does not keep; expected to fail, and an error once it holds.

    Attributes:
        promise: The name of the test.
        why: `cannot`, because of the backend; or `not_yet`.
        reason: A sentence for whoever chooses the provider.
    """

    promise: str
    why: Literal["cannot", "not_yet"]
    reason: str

    def __post_init__(self) -> None:
        """Refuse names that the kit does not know, and silence about the reason."""
        if self.promise not in PROMISES:
            raise ValueError(f"the conformance kit has no promise {self.promise!r}")
        if not self.reason.strip():
            raise ValueError(f"a known difference needs a reason: {self.promise}")


def cannot(promise: str, reason: str) -> KnownDifference:
    """The backend cannot keep the promise, and why."""
    return KnownDifference(promise, "cannot", reason)


def not_yet(promise: str, reason: str) -> KnownDifference:
    """The provider does not keep the promise yet, and what is missing."""
    return KnownDifference(promise, "not_yet", reason)
