"""What the emulator needs of protobuf itself, which comes without types."""

from __future__ import annotations

from typing import Protocol, cast

from google.protobuf.empty_pb2 import (  # type: ignore[import-untyped, unused-ignore]
    Empty,
)


class Message(Protocol):
    """Any message."""

    def SerializeToString(self) -> bytes:  # noqa: N802 - protobuf's name
        """Its bytes."""
        ...


def nothing() -> Message:
    """The reply of a method that has nothing to say."""
    return cast("Message", Empty())
