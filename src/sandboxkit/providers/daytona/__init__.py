"""Daytona, by version 0 of its API."""

from __future__ import annotations

from sandboxkit.providers.daytona.provider import DaytonaProvider

__all__ = ["DaytonaProvider"]
