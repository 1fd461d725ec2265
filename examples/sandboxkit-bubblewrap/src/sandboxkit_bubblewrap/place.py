"""The directory of one sandbox: its files, what is known of it, and how it ends.

All here may block: it is called in worker threads.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sandboxkit.errors import SandboxError
from sandboxkit.providers.base import Difference, Effective, SandboxInfo

UID = 1000
WRITABLE = ("work", "tmp", "run", "home")
# First opened, because the agent may have shut some of it.
REMOVE = 'chmod -R u+rwx -- "$0" 2>/dev/null; rm -rf -- "$0"'
_END_S = 10.0
_REMOVE_S = 40.0


@dataclass(frozen=True)
class Place:
    """One sandbox's directory, named by its key."""

    path: Path

    @classmethod
    def all(cls, root: Path) -> list[SandboxInfo]:
        """What is known of each sandbox that has its directory below `root`."""
        found = root.iterdir() if root.exists() else ()
        return [info for path in found if (info := cls(path).info()) is not None]

    def make(self, info: SandboxInfo) -> None:
        """Write down what it will be, before anything of it runs."""
        self.path.mkdir(mode=0o700, parents=True)
        (self.path / "info.json").write_text(json.dumps(asdict(info), default=str))
        (self.path / "passwd").write_text(f"sandbox:x:{UID}:{UID}::/home:/bin/sh\n")
        (self.path / "group").write_text(f"sandbox:x:{UID}:\n")
        (self.path / "shadow").touch(mode=0)  # not the host's, and as closed as that
        for name in WRITABLE:
            (self.path / name).mkdir(mode=0o755)
            if os.getuid() == 0:
                os.chown(self.path / name, UID, UID)

    def started(self, namespaces: bytes) -> None:
        """Keep what bubblewrap says of the namespaces it has made."""
        (self.path / "namespaces.json").write_bytes(namespaces)

    def namespaces(self) -> dict[str, int] | None:
        """The first process, as `child-pid`, and the namespaces; None if it does not live."""
        try:
            said: dict[str, int] = json.loads((self.path / "namespaces.json").read_bytes())
            here = Path(f"/proc/{said['child-pid']}/ns/pid").stat().st_ino
        except (OSError, ValueError):
            return None
        return said if here == said["pid-namespace"] else None  # else its number is another's now

    def env(self) -> dict[str, str]:
        """The environment that its first process got; empty if it does not live."""
        pid = (self.namespaces() or {}).get("child-pid")
        try:
            pairs = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            return {}
        return dict(os.fsdecode(pair).split("=", 1) for pair in pairs if pair)

    def info(self) -> SandboxInfo | None:
        """What was written down; None if it is gone, or just coming or going."""
        try:
            known: dict[str, Any] = json.loads((self.path / "info.json").read_bytes())
        except (OSError, ValueError):
            return None
        started = (self.path / "namespaces.json").exists()
        known["state"] = "running" if self.namespaces() else "stopped" if started else "creating"
        known["created_at"] = datetime.fromisoformat(known["created_at"])
        known["effective"] = Effective(**known["effective"])
        known["differences"] = tuple(Difference(**each) for each in known["differences"])
        return SandboxInfo(**known)

    def remove(self) -> None:
        """End all that runs in it, and remove it. Gone already is success."""
        while namespaces := self.namespaces():
            with contextlib.suppress(ProcessLookupError), contextlib.ExitStack() as stack:
                first = os.pidfd_open(namespaces["child-pid"])
                stack.callback(os.close, first)
                if self.namespaces() != namespaces:
                    continue
                # The kernel ends all others of the namespace before this one is gone.
                signal.pidfd_send_signal(first, signal.SIGKILL)
                if not select.select([first], [], [], _END_S)[0]:
                    raise SandboxError(f"process {namespaces['child-pid']} does not end")
        remove = ["/bin/sh", "-c", REMOVE, str(self.path)]
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(remove, check=False, timeout=_REMOVE_S)
        if self.path.exists():
            raise SandboxError(f"{self.path} could not be removed")
