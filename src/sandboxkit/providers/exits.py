"""Exit codes as services tell them: 128 + n where signal n has ended the program."""

from __future__ import annotations

import signal
from typing import Final

_DEADLY: Final = frozenset(
    {
        signal.SIGABRT,
        signal.SIGBUS,
        signal.SIGFPE,
        signal.SIGILL,
        signal.SIGKILL,
        signal.SIGSEGV,
        signal.SIGTERM,
    }
)


def code_of(told: int | None) -> int | None:
    """The exit code, or the negative number of the signal, as `ExecResult.exit_code` has it.

    Only of signals that end programs by themselves; the other numbers above 128 are also
    plain exit codes (129 is git's word for a wrong option).
    """
    return 128 - told if told is not None and told - 128 in _DEADLY else told
