"""What this user's processes have asked backends for, written down before they ask.

A file in the user's state directory, which all processes on this machine share. It is what
tells the sandbox of a killed host from one that is in use: see docs/lifecycle.md.
"""

from __future__ import annotations

from sandboxkit.journal.entry import Entry
from sandboxkit.journal.journal import Journal, journal
from sandboxkit.journal.rows import IMAGE, Hold, Row

__all__ = ["IMAGE", "Entry", "Hold", "Journal", "Row", "journal"]
