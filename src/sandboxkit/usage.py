"""Tokens, as everything that counts them does."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens. Two of them can be added.

    Attributes:
        input_tokens: Read by the model, without what came from or went to its cache.
        output_tokens: Written by the model.
        cache_read_tokens: Read from the cache.
        cache_creation_tokens: Written to the cache.
        cache_creation_1h_tokens: Those of them that the cache keeps for an hour, which cost
            more. 0 where that is not told: Claude Code's own report does not.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_creation_tokens: int = 0
    cache_creation_1h_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cache_read_tokens + other.cache_read_tokens,
            self.cache_creation_tokens + other.cache_creation_tokens,
            self.cache_creation_1h_tokens + other.cache_creation_1h_tokens,
        )

    def __sub__(self, other: Usage) -> Usage:
        return Usage(
            self.input_tokens - other.input_tokens,
            self.output_tokens - other.output_tokens,
            self.cache_read_tokens - other.cache_read_tokens,
            self.cache_creation_tokens - other.cache_creation_tokens,
            self.cache_creation_1h_tokens - other.cache_creation_1h_tokens,
        )

    @property
    def total_tokens(self) -> int:
        """All tokens, read and written."""
        return (
            self.input_tokens
            + self.output_tokens
            + self.cache_read_tokens
            + self.cache_creation_tokens
        )
