"""The end of what nobody owns any more: see docs/lifecycle.md."""

from __future__ import annotations

from sandboxkit.reaping.background import Reaper
from sandboxkit.reaping.reap import Reaped, reap

__all__ = ["Reaped", "Reaper", "reap"]
