"""Why a backend does not have what it refuses: it cannot, or sandboxkit does not yet."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Literal, NamedTuple


class Reason(NamedTuple):
    """Why, in a sentence for whoever chooses a backend."""

    why: Literal["cannot", "not yet"]
    sentence: str


_DAYTONA_SIZE: Final = Reason(
    "cannot", "Daytona takes a size only with an image, in whole numbers; with `image=` it is had."
)

REASONS: Final[Mapping[str, Mapping[str, Reason]]] = {
    "docker": {
        "disk_gib": Reason(
            "cannot",
            "the engine of this run has `overlay2` on a disk without quotas; on `xfs` mounted with "
            "`pquota` it is had.",
        ),
        "ports": Reason(
            "not yet",
            "an engine has no public addresses; `sandbox.ports.forward()` reaches every port.",
        ),
        "snapshot": Reason("not yet", "the engine could commit a container; nobody asks it to."),
    },
    "e2b": {
        "cpu": Reason("cannot", "a template has whole CPUs; `cpu=1` is had."),
        "pids": Reason("cannot", "E2B has no limit of processes."),
        "disk_gib": Reason("cannot", "the plan of the account says how large a disk is."),
    },
    "modal": {
        "pids": Reason("cannot", "Modal has no limit of processes."),
        "disk_gib": Reason("cannot", "Modal has no limit of the disk of a sandbox."),
        "pause": Reason("cannot", "Modal pauses nothing; snapshot, and create another from that."),
    },
    "daytona": {
        "cpu": _DAYTONA_SIZE,
        "memory_gib": _DAYTONA_SIZE,
        "disk_gib": _DAYTONA_SIZE,
        "pids": Reason("cannot", "Daytona has no limit of processes."),
        "user": Reason("cannot", "a sandbox runs as a user that its image must have."),
        "pause": Reason(
            "not yet", "only Daytona's virtual machines pause, and those are not used."
        ),
    },
}
"""By backend, and by what is refused: a field of the spec, or a capability."""


def refused_in(said: str) -> str:
    """What an `UnsupportedError` is about, by its message: `cpu`, `pause` ..."""
    found = re.match(r"(?:resources\.)?([a-z_]+)=", said) or re.search(r" cannot ([a-z_]+)$", said)
    if found is None:
        raise ValueError(f"it cannot be told what is refused by: {said}")
    return {"expose": "ports"}.get(found[1], found[1])
