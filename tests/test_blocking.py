"""The detector of blocking calls, which all other tests rely on."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread

import sandboxkit
from tests.blocking import watch


def by_way_of_sandboxkit(source: str) -> Any:
    """The function `work` that `source` defines, as if it stood in a file of sandboxkit."""
    path = Path(sandboxkit.__file__).with_name("imagined.py")
    names: dict[str, Any] = {}
    names |= {"anyio": anyio, "socket": socket, "subprocess": subprocess, "time": time}
    exec(compile(source, str(path), "exec"), names)
    return names["work"]


@pytest.mark.parametrize(
    ("event", "source"),
    [
        ("sleep", "time.sleep(0)"),
        ("open", "open('/etc/hostname').close()"),
        ("subprocess.Popen", "subprocess.run(['true'])"),
        ("socket.connect", "with socket.socket() as it: it.connect_ex(('127.0.0.1', 9))"),
    ],
)
async def test_what_blocks_is_noticed_on_the_loop_and_not_beside_it(
    event: str, source: str
) -> None:
    work = by_way_of_sandboxkit(f"def work():\n    {source}")
    await to_thread.run_sync(work)
    assert watch.found == []
    work()
    assert [found for found in watch.found if found.startswith(f"{event}(")]
    watch.found.clear()


async def test_what_does_not_block_is_not_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    work = by_way_of_sandboxkit(
        "async def work():\n    import colorsys\n    return await anyio.run_process(['true'])"
    )
    await work()
    assert watch.found == []


async def test_others_are_accused_on_the_loop_where_all_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asyncio.get_running_loop().call_soon(time.sleep, 0)
    await asyncio.sleep(0)
    assert watch.found == []
    monkeypatch.setattr(watch, "all_on", asyncio.get_running_loop())
    asyncio.get_running_loop().call_soon(time.sleep, 0)
    await asyncio.sleep(0)
    assert len(watch.found) == 1
    watch.found.clear()
