"""A look at a sandbox's guest that changes nothing in it: is somebody's lease still held there?

A guest lives for as long as some host holds its sandbox, from whichever machine. What is sent
in the guest's place is a small program that sees whether one answers, and goes.
"""

from __future__ import annotations

import base64
import logging
import zlib
from collections.abc import Mapping
from typing import Final, Literal

import anyio

from sandboxkit.errors import ExecStartError, SandboxDiedError, SandboxError, SandboxNotFoundError
from sandboxkit.guest import CONNECT, NO_PYTHON, wire
from sandboxkit.providers.base import ByteChannel, Command, SandboxProvider

log = logging.getLogger(__name__)

Seen = Literal["living", "ended", "absent", "no_python", "gone", "unknown"]
"""`living`: a guest that a host holds, or whose lease still runs. `ended`: it has ended since.
`absent`: there was none. `no_python`: there cannot be one. `gone`: so is the sandbox, or the
machine of one that the backend still lists."""

_LOOK_S: Final = 20.0
_MOST: Final = 64 * 1024
_SAYS: Final = b"sandboxkit-guest-"
_WORDS: Final[Mapping[bytes, Seen]] = {
    b"living": "living",
    b"ended": "ended",
    b"absent": "absent",
}

# As `guest/boot.py` finds it. Both places, and every user's: the guest may run as another.
_PROGRAM: Final = """\
import glob, os, socket
seen = "absent"
for base in ("/run", "/tmp"):
    for place in glob.glob(base + "/sandboxkit-[0-9]*"):
        guest = socket.socket(socket.AF_UNIX)
        try:
            guest.connect(place + "/guest")
            seen = "living"
        except PermissionError:
            seen = "living"
        except OSError:
            if seen == "absent" and os.path.exists(place + "/ended"):
                seen = "ended"
        guest.close()
print("sandboxkit-guest-" + seen, flush=True)
"""


async def look(provider: SandboxProvider, sandbox_id: str) -> Seen:
    """What has become of the guest. Whatever fails on the way is `unknown`; at most 20 s."""
    try:
        with anyio.fail_after(_LOOK_S):
            handle = await provider.attach(sandbox_id)
            try:
                user = provider.capabilities().guest_user
                return await _ask(await handle.spawn(Command(argv=CONNECT, user=user)))
            finally:
                await handle.aclose()
    except (SandboxNotFoundError, SandboxDiedError):
        return "gone"
    except ExecStartError:  # not even a shell
        return "no_python"
    except (SandboxError, TimeoutError) as error:
        log.info("the guest of %s cannot be asked: %s", sandbox_id, error)
        return "unknown"


async def _ask(stream: ByteChannel) -> Seen:
    try:
        await stream.send(base64.b64encode(zlib.compress(_PROGRAM.encode(), 9)) + b"\n")
        heard = b""
        while len(heard) < _MOST and (output := await stream.receive()) is not None:
            heard += output.data if output.fd == 1 else b""
            if wire.GREETING in heard:
                return "living"
            if NO_PYTHON in heard:
                return "no_python"
            word, newline, _rest = heard.partition(_SAYS)[2].partition(b"\n")
            if newline:
                return _WORDS.get(word.strip(), "unknown")
    finally:
        await stream.aclose()
    return "unknown"
