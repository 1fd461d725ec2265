"""The guest: what runs inside the sandbox, and how it gets there.

The modules of this package, save this one, import nothing of sandboxkit, only the
standard library of Python 3.8 and later. `bundle` packs them into one file, which
travels as the first line of a connection: nothing needs to be installed.
"""

from __future__ import annotations

import base64
import json
import zlib
from functools import cache
from importlib import resources
from typing import Final

# In the order in which they import each other.
_MODULES: Final = (
    "wire",
    "streams",
    "loop",
    "link",
    "channels",
    "spawn",
    "tree",
    "trees",
    "files",
    "workers",
    "starter",
    "process",
    "tunnels",
    "adrift",
    "vitals",
    "activity",
    "places",
    "users",
    "server",
    "boot",
)

NO_PYTHON: Final = b"sandboxkit-no-python\n"
"""What is said instead of the greeting where there is no Python 3.8 or later."""

# Reads one line from stdin and runs it. The host sends nothing more until the
# greeting, so that no buffer can swallow what comes after the line.
_BOOTSTRAP = """\
import sys
if sys.version_info < (3, 8):
    print("sandboxkit-no-python"); sys.stdout.flush()
    sys.stdin.read()
    sys.exit(127)
import zlib, binascii
role = sys.argv[1]
exec(zlib.decompress(binascii.a2b_base64(sys.stdin.buffer.readline())))
"""

_LOADER = """\
import json, sys, types
package = types.ModuleType("sandboxkit_guest"); package.__path__ = []
sys.modules["sandboxkit_guest"] = package
for name, source in json.loads({sources!r}):
    module = types.ModuleType("sandboxkit_guest." + name); module.__package__ = "sandboxkit_guest"
    sys.modules[module.__name__] = module; setattr(package, name, module)
    exec(compile(source, "<sandboxkit guest>/" + name + ".py", "exec"), module.__dict__)
sys.modules["sandboxkit_guest.boot"].main(role, {text!r})
"""

_PYTHON = (
    'command -v python3 >/dev/null 2>&1 && exec python3 -I -S -X utf8 -c "$0" "$@"; '
    "echo sandboxkit-no-python; "
)

CONNECT: Final = ("/bin/sh", "-c", _PYTHON + "cat >/dev/null; exit 127", _BOOTSTRAP, "connect")
"""The program that a connection starts in the sandbox. Where there is no Python, it says so,
and lets the host finish what it is sending."""

MAIN: Final = ("/bin/sh", "-c", _PYTHON + "exec cat >/dev/null", _BOOTSTRAP, "main")
"""The program that a backend may run as the sandbox's own: it becomes the guest, and
its standard streams are the first connection. Where there is no Python, it lives until
its stdin is closed, so that the end of the host is its end too."""


@cache
def bundle(*, text: bool) -> bytes:
    """The guest as one line: the first that a new connection sends.

    Args:
        text: Whether the connection carries lines of text rather than bytes.
    """
    here = resources.files("sandboxkit.guest")
    sources = [(name, (here / f"{name}.py").read_text("utf-8")) for name in _MODULES]
    loader = _LOADER.format(sources=json.dumps(sources), text=text)
    return base64.b64encode(zlib.compress(loader.encode(), 9)) + b"\n"
