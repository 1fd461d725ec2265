"""Sandboxes on this machine alone, by Linux namespaces: no engine, no image, no daemon."""

from sandboxkit_bubblewrap.provider import BubblewrapProvider

__all__ = ["BubblewrapProvider"]
