"""What a run of the tests must not leave behind: sandboxes, volumes, networks, processes."""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import docker

from sandboxkit.spec import OWNER_LABEL

OWNER = f"tests-{secrets.token_hex(4)}"  # of this run: others may use the same engine
PATIENCE_S = 20.0  # an engine removes an ended container a moment later


def claim() -> None:
    """Mark whatever this process and its children create from now on as this run's."""
    os.environ["SANDBOXKIT_OWNER"] = OWNER
    state = tempfile.mkdtemp(prefix="sandboxkit-tests-")
    os.environ["SANDBOXKIT_JOURNAL"] = f"{state}/journal.db"
    atexit.register(shutil.rmtree, state, ignore_errors=True)


def things_on(host: str) -> set[str]:
    """All containers, volumes and networks that this run has on an engine.

    What is cached on purpose (`sandboxkit.cache`) carries no owner.
    """
    api: Any = docker.APIClient(base_url=host)
    ours = {"label": f"{OWNER_LABEL}={OWNER}"}
    try:
        kinds: dict[str, Any] = {
            "container": api.containers(all=True, filters=ours),
            "volume": api.volumes(filters=ours)["Volumes"],
            "network": api.networks(filters=ours),
        }
    finally:
        api.close()
    return {
        f"{kind} {thing.get('Id', thing.get('Name'))}"
        for kind, things in kinds.items()
        for thing in things or ()
    }


def child_processes() -> set[str]:
    """The living children of this process, with their start times."""
    me = str(os.getpid())
    children: set[str] = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            name, _, rest = (entry / "stat").read_text().rpartition(")")
        except OSError:
            continue
        fields = rest.split()
        if fields[1] == me and fields[0] not in "ZX":
            children.add(f"process {name}) started at tick {fields[19]}")
    return children


def left_behind(look: Callable[[], set[str]], before: frozenset[str] = frozenset()) -> list[str]:
    """What `look` finds beyond `before`, once what is ending has had time to end."""
    deadline = time.monotonic() + PATIENCE_S
    while (left := look() - before) and time.monotonic() < deadline:
        time.sleep(0.1)
    return sorted(left)
