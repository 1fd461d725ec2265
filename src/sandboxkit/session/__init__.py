"""Sessions: an agent in a sandbox, and their history."""

from __future__ import annotations

from sandboxkit.session.session import Session

__all__ = ["Session"]
