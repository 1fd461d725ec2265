"""The inputs, taken one at a time by several workers, and never further than they are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Sized
from typing import Generic

from sandboxkit.many.outcome import I


class Inputs(Generic[I]):
    """Inputs with their indexes.

    Args:
        inputs: Where they come from; may be endless.
    """

    def __init__(self, inputs: Iterable[I] | AsyncIterable[I]) -> None:
        self.total = len(inputs) if isinstance(inputs, Sized) else None
        self._each: Iterator[I] | AsyncIterator[I]
        self._each = aiter(inputs) if isinstance(inputs, AsyncIterable) else iter(inputs)
        self._turn = asyncio.Lock()
        self._taken = 0
        self._ended = False

    async def next(self) -> tuple[int, I] | None:
        """The next one and its index; None when there are no more.

        Raises what the iterator raises; it is not asked again then.
        """
        async with self._turn:
            if self._ended:
                return None
            self._ended = True
            try:
                value = await self._following()
            except (StopIteration, StopAsyncIteration):
                return None
            self._ended = False
            index, self._taken = self._taken, self._taken + 1
            return index, value

    async def _following(self) -> I:
        if isinstance(self._each, AsyncIterator):
            return await anext(self._each)
        for value in self._each:
            return value
        raise StopAsyncIteration
