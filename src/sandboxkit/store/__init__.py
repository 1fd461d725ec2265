"""Sessions that outlive their sandbox: conversations and workspaces, kept and taken up again."""

from sandboxkit.store.sessions import SessionRecord, Snapshot
from sandboxkit.store.store import Store
from sandboxkit.store.workspace import Workspace

__all__ = ["SessionRecord", "Snapshot", "Store", "Workspace"]
