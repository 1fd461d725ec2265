"""A journal and a folder of sandboxes for each test, and hosts that die."""

from __future__ import annotations

import asyncio
import secrets
import signal
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sandboxkit.ownership import owner
from sandboxkit.spec import KEY_LABEL, LEASE_LABEL, OWNER_LABEL
from tests.reaping.folder import FolderProvider, Kept

ROOT = Path(__file__).parent.parent.parent
HOST = """
import asyncio, os, signal, sys
from pathlib import Path
import sandboxkit as sk
from sandboxkit.channel.greeting import NoGuestError
from tests.reaping.folder import FolderProvider

def die(*_): os.kill(os.getpid(), signal.SIGKILL)

provider = FolderProvider(Path(sys.argv[1]))

async def main():
    {script}

asyncio.run(main())
"""
Host = Callable[..., Awaitable[int]]


@pytest.fixture(autouse=True)
def journal_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The journal's file, which this test's hosts share."""
    path = tmp_path / "state" / "journal.db"
    monkeypatch.setenv("SANDBOXKIT_JOURNAL", str(path))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> FolderProvider:
    return FolderProvider(tmp_path / "backend")


@pytest.fixture
def host(tmp_path: Path, folder: FolderProvider) -> Host:
    """Run a host to its end, in a process of its own; its exit code."""

    async def run(script: str) -> int:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", HOST.format(script=script), str(tmp_path / "backend")),
            cwd=ROOT,
        )
        return await process.wait()

    return run


KILLED = -signal.SIGKILL


def foreign(
    folder: FolderProvider, *, owner_name: str | None = None, age_s: float = 0.0, **fields: str
) -> str:
    """A sandbox that this journal knows nothing of; its id."""
    key = f"sandboxkit-{secrets.token_hex(6)}"
    labels = {OWNER_LABEL: owner_name or owner(), KEY_LABEL: key, LEASE_LABEL: "60"}
    created = (folder.now or datetime.now(UTC)) - timedelta(seconds=age_s)
    folder.put(key, Kept(labels, created=created.isoformat()))
    folder.change(key, **fields)
    return key
