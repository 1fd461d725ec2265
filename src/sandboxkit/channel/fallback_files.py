"""Files by small shell scripts, for images that have no Python."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from typing import Any, Final

from sandboxkit.channel.fallback import Fallback, refuse
from sandboxkit.channel.files import Files
from sandboxkit.channel.remote import RemoteChannel, Sink
from sandboxkit.errors import FileError

_PIECE: Final = 64 * 1024
_EXISTS: Final = "{{ [ -e {0} ] || [ -L {0} ]; }}"
_REFUSED_IF: Final = "if {0}; then echo {1} >&2; exit 1; fi; "

# Only what has come whole takes the place of what was there.
_REPLACE: Final = """\
p=$(readlink -f -- {path}) || p={path}; t="$p.$$"; trap 'rm -f -- "$t"' EXIT
{{ [ ! -e "$p" ] || cp -p -- "$p" "$t"; }} && cat > "$t" &&
[ "$(wc -c < "$t")" -eq {size} ] && {chmod} && mv -f -- "$t" "$p"
"""


class FallbackFiles(Files):
    """What of `Files` can be done by a shell."""

    def __init__(self, fallback: Fallback) -> None:
        super().__init__(lambda: refuse("this file operation"))
        self._fallback = fallback

    def _open(self, request: Mapping[str, Any], sink: Sink | None) -> RemoteChannel:  # noqa: ARG002
        refuse(f"files.{request['do']}")

    async def _run(
        self, request: Mapping[str, Any], *, stdin: bytes = b"", sink: Sink | None = None
    ) -> dict[str, Any]:
        do, path = request["do"], str(request["path"])
        write = _SCRIPTS.get(do) or refuse(f"files.{do}")
        result = await self._fallback.execute(
            {
                "argv": ["/bin/sh", "-c", write({**request, "size": len(stdin)})],
                "cwd": None,
                "env": {},
                "user": request["user"],
            },
            stdin=stdin,
            timeout_s=None,
            max_output_bytes=2 * int(request.get("limit") or _PIECE),
        )
        if result.exit_code:
            said = result.stderr.decode("utf-8", "replace").strip()
            raise FileError(f"{path}: {said or 'it did not arrive whole'}", op=f"files.{do}")
        if sink is not None:
            sink(1, result.stdout)
        return {}


def _read(request: Mapping[str, Any]) -> str:
    return f"head -c {int(request['limit'])} < {_path(request)}"


def _write(request: Mapping[str, Any]) -> str:
    path, mode = _path(request), request["mode"]
    parent = shlex.quote(str(request["path"]).rpartition("/")[0] or ".")
    first = f"mkdir -p -- {parent} && " if request["parents"] else ""
    if request["exclusive"]:
        first = _REFUSED_IF.format(_EXISTS.format(path), "it exists already") + first
    if request["append"]:
        chmod = "" if mode is None else f" && chmod {mode:o} -- {path}"
        return f"{first}cat >> {path}{chmod}"
    chmod = ":" if mode is None else f'chmod {mode:o} -- "$t"'
    return f"{first}{{\n{_REPLACE.format(path=path, size=request['size'], chmod=chmod)}}}"


def _make_dir(request: Mapping[str, Any]) -> str:
    path = _path(request)
    made = f"mkdir {'-p ' if request['parents'] else ''}-- {path}"
    if request["exist_ok"]:
        return f"[ -d {path} ] || {made}"
    return _REFUSED_IF.format(_EXISTS.format(path), "it exists already") + made


def _remove(request: Mapping[str, Any]) -> str:
    path = _path(request)
    first = f"{_EXISTS.format(path)} || exit 0; " if request["missing_ok"] else ""
    if request["recursive"]:
        return f"{first}rm -r -- {path}"
    return (
        f"{first}if [ -d {path} ] && [ ! -L {path} ]; then rmdir -- {path}; else rm -- {path}; fi"
    )


def _move(request: Mapping[str, Any]) -> str:
    target = shlex.quote(str(request["target"]))
    taken = f"[ -d {target} ]" if request["overwrite"] else _EXISTS.format(target)
    refused = _REFUSED_IF.format(taken, "the target exists already")
    return f"{refused}mv -- {_path(request)} {target}"


def _path(request: Mapping[str, Any]) -> str:
    return shlex.quote(str(request["path"]))


_SCRIPTS: Final[Mapping[str, Callable[[Mapping[str, Any]], str]]] = {
    "read": _read,
    "write": _write,
    "make_dir": _make_dir,
    "remove": _remove,
    "move": _move,
}
