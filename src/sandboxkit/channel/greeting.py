"""From a spawned connector to the guest's greeting."""

from __future__ import annotations

from typing import Any, cast

import anyio.to_thread

from sandboxkit.errors import (
    ConnectionLostError,
    ExecStartError,
    ProtocolError,
    SandboxDiedError,
    SandboxError,
)
from sandboxkit.guest import CONNECT, NO_PYTHON, bundle, wire
from sandboxkit.providers.base import ByteChannel, Command, Encoding, SandboxHandle

_NOISE = 64 * 1024  # bytes before the greeting (a login banner) that are passed over
_STDERR = 4 * 1024
_CANNOT_RUN = (126, 127)
_ENDINGS = {
    "expired": "the sandbox has reached the end of its life-time",
    "idle": "the sandbox was idle for longer than its idle time-out",
    "unheld": "no host has held the sandbox for the length of its lease",
}


class NoGuestError(SandboxError):
    """The image cannot run the guest: there is no Python 3.8, or no shell.

    Attributes:
        stream: The program that said so. Where it is the sandbox's own main program,
            the sandbox lives as long as it is held.
    """

    default_code = "no_guest"
    stream: ByteChannel | None = None


async def dial(handle: SandboxHandle, user: str | None) -> tuple[ByteChannel, bytes]:
    """Spawn a connector and send it the guest.

    Returns:
        The connection, and what came after the greeting.

    Raises:
        NoGuestError: The image cannot run the guest.
        SandboxDiedError: The guest has ended, and with it the sandbox.
        ConnectionLostError: The connector ended without a greeting.
    """
    try:
        stream = await handle.spawn(Command(argv=CONNECT, user=user))
    except ExecStartError as error:
        raise NoGuestError(f"the image cannot run a shell: {error.message}") from error
    try:
        await stream.send(await anyio.to_thread.run_sync(_bundle, stream.encoding))
        return stream, await _greeting(stream)
    except NoGuestError as error:
        error.stream = stream
        raise
    except BaseException:
        await stream.aclose()
        raise


def _bundle(encoding: Encoding) -> bytes:
    return bundle(text=encoding == "text_lines")


async def _greeting(stream: ByteChannel) -> bytes:
    heard, complaints = b"", b""
    while len(heard) < _NOISE:
        output = await stream.receive()
        if output is None:
            break
        if output.fd != 1:
            complaints = (complaints + output.data)[-_STDERR:]
            continue
        heard += output.data
        before, found, after = heard.partition(wire.GREETING)
        if found:
            return after
        if wire.ENDED in before and before.endswith(b"\n"):
            raise ended(before.partition(wire.ENDED)[2].strip().decode(errors="replace"))
        if NO_PYTHON in before:
            raise NoGuestError("there is no Python 3.8 or later in the image")
    code = await stream.wait()
    said = (heard + complaints).decode(errors="replace").strip()[-500:]
    if code in _CANNOT_RUN:
        raise NoGuestError(f"the image cannot run a shell: {said or code}")
    raise ConnectionLostError(f"the guest did not start (exit code {code}): {said or 'no output'}")


def ended(why: str) -> SandboxDiedError:
    """The error for a guest that has ended on purpose, by its own word for the reason."""
    said = _ENDINGS.get(why, "the guest has ended, and with it the sandbox")
    code = why if why in {"expired", "idle"} else "died"
    return SandboxDiedError(f"{said}; create another one", code=code, retryable=False)


def read_welcome(frame: wire.Frame) -> dict[str, Any]:
    """What the guest says of itself.

    Raises:
        ProtocolError: It is no welcome, or the guest speaks another protocol.
        ExecStartError: The guest cannot serve this host.
    """
    if frame.kind != wire.WELCOME:
        raise ProtocolError("the guest did not answer the greeting")
    welcome = frame.json()
    if welcome.get("protocol") != wire.PROTOCOL:
        raise ProtocolError(
            f"the guest speaks protocol {welcome.get('protocol')!r}, not {wire.PROTOCOL}; "
            "it was started by another version of sandboxkit"
        )
    refusal = welcome.get("error")
    if isinstance(refusal, dict):
        fields = cast("dict[str, object]", refusal)
        raise ExecStartError(str(fields.get("message")), code=str(fields.get("code")))
    return welcome
