"""One program as a line of shell: argv, environment and directory as they are given.

The service runs what it is told in whatever shell the image prefers (zsh, which splits
words differently, in its own), and gives no way to set variables or a directory. So it
gets one `/bin/sh -c` with a script of ours. The environment is in no command line, where
everybody in the sandbox could read it: it is the first thing on stdin.
"""

from __future__ import annotations

import re
import secrets
import shlex
from dataclasses import dataclass
from typing import Final

from sandboxkit.errors import UnsupportedError
from sandboxkit.providers.base import Command
from sandboxkit.providers.daytona.log import SEPARATOR

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

# Lines until the end word, then as a script. (The last command of a loop that has read
# nothing more must not decide how it ends.)
_ENVIRONMENT: Final = """\
s=; while IFS= read -r l && [ "$l" != {word} ]; do s="$s$l
"; done
"""
# The service cannot end a program's stdin. So stdin goes through a filter that ends at the
# end word: a child of the script's shell, not of the program.
_FILTER: Final = """\
f=/tmp/.{word}; mkfifo -m 600 "$f" || exit 126
exec 3<&0
{ exec 2>/dev/null
export LC_ALL=C
if sed -u -n p </dev/null; then exec sed -u -n '/^{word}$/q;p'
else while IFS= read -r l && [ "$l" != {word} ]; do printf '%s\\n' "$l"; done
fi; } <&3 3<&- >"$f" &
exec <"$f" 3<&-; rm -f "$f"
"""
_RUN: Final = """\
( {steps} )
c=$?; printf '\\036{word} %s\\n' "$c"; printf '\\036{word} %s\\n' "$c" >&2; exit "$c"
"""


@dataclass(frozen=True, slots=True)
class Script:
    """A program, ready to be handed to the service.

    Attributes:
        text: The line of shell.
        first: What must be sent to its stdin before anything else.
        eof: What ends its stdin; None where stdin has no end but the program's.
        end: What starts the line that ends each of its output streams.
    """

    text: str
    first: str
    eof: str | None
    end: bytes


def script(command: Command, *, ends: bool) -> Script:
    """The script of a program.

    Args:
        command: The program.
        ends: Whether its stdin can be ended: that costs a process, and time for each byte.

    Raises:
        UnsupportedError: A variable has a name that no shell can set.
    """
    word = f"sandboxkit-{secrets.token_hex(16)}"
    steps: list[str] = []
    if command.cwd is not None:
        steps.append(f"cd -- {shlex.quote(command.cwd)} || exit 126")
    if command.env:
        steps.append('eval "$s"')
    steps.append("exec " + shlex.join(command.argv))
    parts = [
        _ENVIRONMENT.replace("{word}", word) if command.env else "",
        _FILTER.replace("{word}", word) if ends else "",
        _RUN.replace("{word}", word).replace("{steps}", "; ".join(steps)),
    ]
    return Script(
        text=f"/bin/sh -c {shlex.quote(''.join(parts))}",
        first=_exports(command, word) if command.env else "",
        eof=f"{word}\n" if ends else None,
        end=SEPARATOR + word.encode() + b" ",
    )


def _exports(command: Command, word: str) -> str:
    for name in command.env:
        if not _NAME.fullmatch(name):
            raise UnsupportedError(
                f"the variable {name!r} cannot be set: Daytona starts programs by a shell, and "
                "its names are letters, digits and _",
                op="spawn",
                provider="daytona",
            )
    lines = (f"export {name}={shlex.quote(value)}\n" for name, value in command.env.items())
    return "".join(lines) + f"{word}\n"
