"""What an answer says of its tokens, read as it passes by.

An answer that cannot be read still passes; its tokens are then not known.
"""

from __future__ import annotations

import base64
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, cast

from sandboxkit.usage import Usage

_MOST: Final = 32 * 1024 * 1024  # of a line, or of an answer that is not streamed
_TEXTS: Final = ("text", "thinking", "partial_json")
_FIELDS: Final = {
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "cache_read_input_tokens": "cache_read_tokens",
    "cache_creation_input_tokens": "cache_creation_tokens",
    "ephemeral_1h_input_tokens": "cache_creation_1h_tokens",
}


class Tally:
    """What is known of one answer.

    Attributes:
        first_token_at: When its first token came, on the monotonic clock.
        complete: Whether its end was seen, so that the count is the whole count.
    """

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._written = 0
        self.first_token_at: float | None = None
        self.complete = False

    @property
    def usage(self) -> Usage | None:
        """The tokens; None where the answer has told none.

        The last word on what was written comes with the end. Of an answer that was broken
        off it is estimated, at four characters a token, so that hanging up is not free.
        """
        if not self._counts:
            return None
        usage = Usage(**self._counts)
        an_hour = min(usage.cache_creation_1h_tokens, usage.cache_creation_tokens)
        usage = replace(usage, cache_creation_1h_tokens=an_hour)
        if self.complete:
            return usage
        return replace(usage, output_tokens=max(usage.output_tokens, self._written // 4))

    def saw(self, event: Mapping[str, Any]) -> None:
        """An event of the Messages API's stream, or a whole message."""
        kind = event.get("type")
        if kind == "message_start":
            self._count(_nested(event, "message"))
        elif kind in {"message_delta", "message"}:
            self._count(event)
            self.complete = self.complete or kind == "message"
        elif kind == "message_stop":
            self.complete = True
        elif kind in {"content_block_start", "content_block_delta"}:
            self.first_token_at = self.first_token_at or time.monotonic()
            delta = _nested(event, "delta")
            self._written += sum(len(str(delta.get(name, ""))) for name in _TEXTS)

    def _count(self, holder: Mapping[str, Any]) -> None:
        usage = _nested(holder, "usage")
        for name, field in _FIELDS.items():
            value = usage.get(name, _nested(usage, "cache_creation").get(name))
            if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
                # Later counts are cumulative, not added; some proxies end with zeros.
                self._counts[field] = max(value, self._counts.get(field, 0))


class Reader(ABC):
    """Reads one kind of answer."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally

    @abstractmethod
    def feed(self, data: bytes) -> None:
        """The next bytes, in whichever pieces they come."""

    def end(self) -> None:
        """The answer is complete. A second call does nothing."""
        return

    def _event(self, text: bytes | str) -> None:
        try:
            event = json.loads(text)
        except (ValueError, RecursionError):
            return
        if isinstance(event, dict):
            self._tally.saw(cast("dict[str, Any]", event))


class SseReader(Reader):
    """Server-sent events."""

    def __init__(self, tally: Tally) -> None:
        super().__init__(tally)
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """See `Reader.feed`."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _MOST:
            self._rest = b""
        for line in lines:
            if line.startswith(b"data:"):
                self._event(line[5:])


class JsonReader(Reader):
    """One JSON document."""

    def __init__(self, tally: Tally) -> None:
        super().__init__(tally)
        self._pieces: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> None:
        """See `Reader.feed`."""
        self._size += len(data)
        if self._size <= _MOST:
            self._pieces.append(data)

    def end(self) -> None:
        """See `Reader.end`."""
        if self._size <= _MOST and self._pieces:
            self._event(b"".join(self._pieces))
            self._pieces.clear()


class EventStreamReader(Reader):
    """Amazon's event stream: each message has an event of the Messages API inside."""

    def __init__(self, tally: Tally) -> None:
        super().__init__(tally)
        from botocore.eventstream import EventStreamBuffer

        self._buffer = EventStreamBuffer()
        self._broken = False

    def feed(self, data: bytes) -> None:
        """See `Reader.feed`."""
        from botocore.eventstream import ParserError

        if self._broken:
            return
        try:
            self._buffer.add_data(data)
            for message in self._buffer:
                inside = json.loads(message.payload).get("bytes", "")
                self._event(base64.b64decode(inside))
        except (ParserError, ValueError, AttributeError, TypeError):
            self._broken = True


def reader_for(content_type: str, tally: Tally) -> Reader:
    """The reader that fits an answer."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "text/event-stream":
        return SseReader(tally)
    if kind == "application/vnd.amazon.eventstream":
        return EventStreamReader(tally)
    return JsonReader(tally)


def _nested(holder: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = holder.get(name)
    return cast("Mapping[str, Any]", found) if isinstance(found, dict) else {}
