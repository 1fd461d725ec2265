"""Whole lines out of pieces of bytes, and messages out of lines, as the CLI writes them."""

from __future__ import annotations

import codecs
import json
import logging
from typing import Any

from claude_agent_sdk import CLIJSONDecodeError

log = logging.getLogger(__name__)


class Lines:
    r"""Puts lines together. They end at "\n" alone: JSON may hold U+2028 and its like.

    Args:
        errors: What becomes of bytes that are no UTF-8, as for `bytes.decode`.

    Attributes:
        pending: Characters of the line that has not ended yet.
    """

    def __init__(self, errors: str = "strict") -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors)
        self._parts: list[str] = []
        self.pending = 0

    def push(self, data: bytes) -> list[str]:
        """The lines that `data` completes."""
        text = self._decoder.decode(data)
        self._parts.append(text)
        self.pending += len(text)
        if "\n" not in text:
            return []
        *lines, rest = "".join(self._parts).split("\n")
        self._parts, self.pending = [rest], len(rest)
        return lines

    def flush(self) -> str:
        """What is left without an end."""
        rest = "".join(self._parts)
        self._parts, self.pending = [], 0
        return rest


def parse(line: str) -> dict[str, Any] | None:
    """The message in a line; None for a line that is none (some builds print notes).

    Raises:
        CLIJSONDecodeError: It begins like a message and is broken.
    """
    line = line.strip()
    if not line.startswith("{"):
        if line:
            log.debug("The CLI wrote a line that is no message: %s", line[:200])
        return None
    try:
        message: dict[str, Any] = json.loads(line)
    except json.JSONDecodeError as error:
        raise CLIJSONDecodeError(line, error) from error
    return message


def check_size(length: int, limit: int) -> None:
    """Refuse a message, whole or still growing, that is longer than `limit` characters.

    Raises:
        CLIJSONDecodeError: As the SDK's local transport raises it.
    """
    if length > limit:
        raise CLIJSONDecodeError(
            f"JSON message exceeded maximum buffer size of {limit} bytes",
            ValueError(f"Buffer size {length} exceeds limit {limit}"),
        )
