"""What a test makes go wrong at an emulator, and the account of what it was asked."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["refuse", "delay", "lose_answer", "cut", "stall"]


@dataclass(slots=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        op: The operation, by the emulator's own short name: `create`, `start`, `output` ...
        kind: `refuse` answers with `status`; `delay` waits `seconds` first; `lose_answer`
            does the work, then drops the connection without an answer; `cut` breaks a
            stream when `after` bytes of it have gone out; `stall` lets a stream fall
            silent for ever at that point.
        times: How often it strikes before it is used up.
        status: HTTP's, or the gRPC code's name.
        retry_after: The header of that name, in seconds.
        seconds: See `delay`.
        after: See `cut` and `stall`.
    """

    op: str
    kind: Kind
    times: int = 1
    status: int | str = 503
    retry_after: float | None = None
    seconds: float = 0.0
    after: int = 0


@dataclass
class Faults:
    """The faults of one emulator, and how often each operation was asked for.

    May be used from any thread: the emulator runs in one of its own.
    """

    calls: Counter[str] = field(default_factory=Counter[str])
    _waiting: list[Fault] = field(default_factory=list[Fault])
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, fault: Fault) -> Fault:
        """Have it strike the next calls of its operation."""
        with self._lock:
            self._waiting.append(fault)
        return fault

    def clear(self) -> None:
        """Forget what has not struck yet, and all counts."""
        with self._lock:
            self._waiting.clear()
            self.calls.clear()

    def take(self, op: str) -> Fault | None:
        """The fault that strikes this call, which is counted."""
        with self._lock:
            self.calls[op] += 1
            for fault in self._waiting:
                if fault.op == op and fault.times > 0:
                    fault.times -= 1
                    return fault
        return None
