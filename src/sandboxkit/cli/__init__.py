"""The command line: `sandboxkit demo`, `run`, `exec`, `mcp`, `ls`, `rm` and more."""

from __future__ import annotations

import sys
from typing import Final

_OF_THE_EXTRA: Final = frozenset({"typer", "rich"})
_MISSING: Final = """\
The sandboxkit command needs the package {name!r}, which is not installed:
  {python} -m pip install "sandboxkit[cli]"
With Docker and Claude Code as well:
  {python} -m pip install "sandboxkit[all]"
"""


def main() -> None:
    """Run the command line; leaves by `SystemExit`, with the exit code."""
    try:
        from sandboxkit.cli.app import app
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _OF_THE_EXTRA:
            raise
        sys.stderr.write(_MISSING.format(name=missing, python=sys.executable))
        raise SystemExit(1) from None
    app(prog_name="sandboxkit")
