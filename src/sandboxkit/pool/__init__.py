"""Machines that are ready before anybody asks for one: each is claimed once, and never reused."""

from __future__ import annotations

from sandboxkit.pool.machine import Content
from sandboxkit.pool.pool import Pool

__all__ = ["Content", "Pool"]
