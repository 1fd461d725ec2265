"""What a program is asked for with, checked before anything is started."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal

from sandboxkit.errors import InvalidSpecError
from sandboxkit.spec import USER_NAME, check_env

PIPE: Final = "pipe"
"""For `spawn(stdin=PIPE)`: the process gets a pipe; otherwise its input is empty."""

TERMINAL: Final = (24, 80)
"""Rows and columns where none are given."""

MAX_NOTE: Final = 16 * 1024
"""Characters of a process's note."""

_MAX_SIZE = 65535  # rows or columns of a terminal
_MAX_ARG = 128 * 1024  # bytes of one argument that Linux accepts (MAX_ARG_STRLEN)


def request_for(
    argv: Sequence[str],
    *,
    cwd: str | None,
    env: Mapping[str, str] | None,
    user: str | None,
) -> dict[str, Any]:
    """The request for a program, checked.

    Raises:
        InvalidSpecError: What is wrong, before anything is started.
    """
    if isinstance(argv, str | bytes) or not argv or not _all_text(argv):
        raise InvalidSpecError(
            f"argv must be a list of strings, not {argv!r}; for a shell line use sandbox.sh()"
        )
    for argument in argv:
        if "\0" in argument:
            raise InvalidSpecError("an argument holds NUL, which no program can be given")
        if len(argument.encode("utf-8", "surrogateescape")) >= _MAX_ARG:
            raise InvalidSpecError(
                f"an argument is longer than {_MAX_ARG - 1} bytes, the most that Linux passes; "
                "use stdin or a file"
            )
    if not argv[0]:
        raise InvalidSpecError("the program's name is empty")
    if cwd is not None and ("\0" in cwd or cwd.startswith("/proc/")):
        raise InvalidSpecError(f"cwd must be a path outside /proc, not {cwd!r}")
    if user is not None and not USER_NAME.fullmatch(user):
        raise InvalidSpecError(f"user must be a name or a number, not {user!r}")
    if env and not _all_text(env.values()):
        raise InvalidSpecError("env: every value must be a string")
    try:
        check_env(env or {})
    except ValueError as error:
        raise InvalidSpecError(f"env: {error}") from None
    return {"op": "exec", "argv": list(argv), "cwd": cwd, "env": dict(env or {}), "user": user}


def spawn_options(
    *,
    stdin: str | None,
    pty: bool | tuple[int, int],
    detach: bool | Literal["lossless"],
    passive: bool,
    note: str,
) -> dict[str, Any]:
    """What `spawn` adds to the request; see `Sandbox.spawn`.

    Raises:
        InvalidSpecError: What is wrong, before anything is started.
    """
    if stdin not in {None, PIPE}:
        raise InvalidSpecError("stdin must be PIPE or None; exec() takes bytes")
    size = TERMINAL if pty is True else pty
    if size:
        check_size(*size)
    check_note(note)
    return {
        "stdin": stdin == PIPE,
        "pty": list(size) if size else None,
        "detach": bool(detach),
        "lossless": detach == "lossless",
        "passive": passive,
        "note": note,
    }


def check_note(note: str) -> None:
    """Check a note.

    Raises:
        InvalidSpecError: It is too long.
    """
    if len(note) > MAX_NOTE:
        raise InvalidSpecError(f"a note has {MAX_NOTE} characters at most, not {len(note)}")


def check_size(rows: int, columns: int) -> None:
    """Check the size of a terminal.

    Raises:
        InvalidSpecError: No terminal has it.
    """
    if not (1 <= rows <= _MAX_SIZE and 1 <= columns <= _MAX_SIZE):
        raise InvalidSpecError(
            f"a terminal has 1 to {_MAX_SIZE} rows and columns: {rows}, {columns}"
        )


def _all_text(values: Iterable[object]) -> bool:
    return all(isinstance(value, str) for value in values)
