"""When the CLI is working on a prompt: for so long its sandbox is not idle."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any, Final, cast

from sandboxkit.errors import SandboxError

if TYPE_CHECKING:
    from sandboxkit.sandbox import Sandbox

_WORKS: Final = {"assistant", "stream_event"}


class Turns:
    """Holds the sandbox's activity from a prompt to its result.

    The process itself is none: it waits for the next prompt for as long as the session lasts.

    Args:
        sandbox: Where the CLI runs.
    """

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._held: contextlib.AbstractContextManager[None] | None = None
        self._starts = False

    def started(self) -> None:
        """The CLI starts; that is over with its first answer."""
        self.begin()
        self._starts = True

    def said(self, data: str) -> None:
        """The host has a message for the CLI: with a prompt, a turn begins."""
        try:
            message: object = json.loads(data)
        except ValueError:
            return
        if isinstance(message, dict) and cast("dict[str, Any]", message).get("type") == "user":
            self._starts = False
            self.begin()

    def heard(self, message: dict[str, Any]) -> None:
        """The CLI has said something; prompts may wait there, and go on after a result."""
        kind = message.get("type")
        if kind == "result" or (self._starts and kind == "control_response"):
            self.end()
        elif kind in _WORKS:
            self.begin()

    def begin(self) -> None:
        """A turn is under way."""
        if self._held is None:
            held = self._sandbox.activity.hold()
            with contextlib.suppress(SandboxError):  # lost: the write, or the read, will say so
                held.__enter__()
                self._held = held

    def end(self) -> None:
        """No turn is under way."""
        self._starts = False
        held, self._held = self._held, None
        if held is not None:
            held.__exit__(None, None, None)
