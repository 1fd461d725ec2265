"""When a sandbox's life-time ends, as its guest counts it: the one who ends it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

_LONGEST_S: Final = 10 * 365 * 86_400.0
_SAME_S: Final = 2.0  # two answers about one end differ by what they took on the way


class Term:
    """The end of a life-time; any host may have put it off, so each answer says it again."""

    def __init__(self) -> None:
        self._end: float | None = None  # on this host's monotonic clock
        self._at: datetime | None = None

    def told(self, said: Mapping[str, object]) -> None:
        """Take what the guest says; an answer that does not say it changes nothing."""
        if "left_s" not in said:
            return
        left = said["left_s"]
        if not isinstance(left, int | float) or not -_LONGEST_S < left < _LONGEST_S:
            self._end = self._at = None
            return
        end = time.monotonic() + left
        if self._end is None or abs(end - self._end) > _SAME_S:
            self._end, self._at = end, datetime.now(UTC) + timedelta(seconds=left)

    @property
    def left_s(self) -> float | None:
        """Seconds until then; None where the life-time has no end."""
        return None if self._end is None else self._end - time.monotonic()

    @property
    def ends_at(self) -> datetime | None:
        """The moment, aware, UTC, by this machine's clock; None likewise."""
        return self._at
