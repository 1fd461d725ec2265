"""Taking secrets out of text that others have written, before anybody reads it."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Final
from urllib.parse import quote

_SHORTEST: Final = 8
"""Shorter values are words that stand everywhere, such as `debug`."""

_SHORTEST_NAMED: Final = 4
"""Of a variable whose name says that it holds a secret."""

_TELLING: Final = re.compile(r"key|token|secret|passw|credential|auth|private", re.IGNORECASE)
_SHAPES: Final = (
    # Of the well-known kinds, those that nobody has told us of.
    (re.compile(r"(?<=://)[^\s/@:]*:[^\s/@]+(?=@)"), "[credentials]"),
    (re.compile(r"\bsk-[A-Za-z0-9_-]{16,}"), "[key]"),
    (re.compile(r"\bsandboxkit-[A-Za-z0-9_-]{32,}"), "[token]"),
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"), "[key]"),
    (re.compile(r"\bABSK[A-Za-z0-9+/=_-]{32,}"), "[key]"),
    (re.compile(r"\bgh[opsur]_[A-Za-z0-9]{30,}\b"), "[token]"),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]*"), "[token]"),
    (re.compile(r"(?i)(?<=\bbearer )[A-Za-z0-9._~+/=-]{8,}"), "[token]"),
    (re.compile(r"(?i)(?<=x-amz-signature=)[0-9a-f]{16,}"), "[signature]"),
)

Values = Callable[[], Iterable[tuple[str, str]]]


class Redactor:
    """Knows values that must not be shown, and the shapes of keys and tokens.

    A value is found as it is, as JSON, a URL and Base64 write it, and each line of it alone.
    """

    def __init__(self) -> None:
        self._found: dict[str, str] = {}
        self._ordered: tuple[tuple[str, str], ...] = ()
        self._sources: list[Values] = []

    def add(self, values: Mapping[str, str]) -> None:
        """Values by name: the name is shown in their place."""
        for name, value in values.items():
            shortest = _SHORTEST_NAMED if _TELLING.search(name) else _SHORTEST
            for form in _forms(value):
                if len(form) >= shortest:
                    self._found.setdefault(form, f"[{name}]")
        longest_first = sorted(self._found.items(), key=lambda each: -len(each[0]))
        self._ordered = tuple(longest_first)

    def add_source(self, source: Values) -> None:
        """Where there are values that may become others: asked whenever a text is cleaned."""
        self._sources.append(source)

    def clean(self, text: str) -> str:
        """The text without them."""
        for source in self._sources:
            fresh = {name: value for name, value in source() if value and value not in self._found}
            if fresh:
                self.add(fresh)
        for value, shown in self._ordered:
            if value in text:
                text = text.replace(value, shown)
        for shape, shown in _SHAPES:
            text = shape.sub(shown, text)
        return text


def _forms(value: str) -> set[str]:
    raw = value.encode(errors="surrogateescape")
    forms = {
        value,
        json.dumps(value)[1:-1],
        json.dumps(value, ensure_ascii=False)[1:-1],
        quote(raw, safe=""),
        base64.b64encode(raw).decode().rstrip("="),
        base64.urlsafe_b64encode(raw).decode().rstrip("="),
    }
    if "\n" in value:
        forms |= {line.strip() for line in value.splitlines()}
    return forms
