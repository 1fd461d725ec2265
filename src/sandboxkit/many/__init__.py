"""One task over many inputs, each in a sandbox of its own."""

from __future__ import annotations

from sandboxkit.many.mapped import Mapped, map  # noqa: A004
from sandboxkit.many.outcome import MapProgress, Outcome

__all__ = ["MapProgress", "Mapped", "Outcome", "map"]
