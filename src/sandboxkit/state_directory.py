"""Where sandboxkit keeps what outlives a process: the journal, the store, an engine's log."""

from __future__ import annotations

import os
from pathlib import Path


def state_directory(given: str | None = None) -> Path:
    """The user's: `$XDG_STATE_HOME/sandboxkit`, by default `~/.local/state/sandboxkit`.

    Nothing is made. A relative `XDG_STATE_HOME` counts as none, as the XDG
    base directory specification has it.

    Args:
        given: The variable as it was at some time; None is now.

    Raises:
        OSError: The user has no home directory.
    """
    if given is None:
        given = os.environ.get("XDG_STATE_HOME", "")
    if Path(given).is_absolute():
        return Path(given) / "sandboxkit"
    try:
        return Path.home() / ".local" / "state" / "sandboxkit"
    except RuntimeError as error:
        raise OSError(str(error)) from error
