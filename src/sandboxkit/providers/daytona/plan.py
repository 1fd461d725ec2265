"""What a spec becomes at Daytona: its snapshot, its size, and what differs."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from sandboxkit.errors import UnsupportedError
from sandboxkit.providers.base import Difference, Effective, SandboxInfo
from sandboxkit.providers.daytona.failures import PROVIDER
from sandboxkit.providers.daytona.v0 import Machine, Recipe, Size
from sandboxkit.providers.remembered import recall
from sandboxkit.spec import EXPIRES_LABEL, Artifact, SandboxSpec

SNAPSHOT: Final = "snapshot:"
"""What an image's name starts with that is a snapshot of the account."""
OURS: Final = "sandboxkit-"
ARTIFACTS_LABEL: Final = "sandboxkit.artifacts"

_BASE: Final = "python:3.12-slim-bookworm"
_USER: Final = "daytona"  # as in the service's own images
_PREPARE: Final = (
    (
        "command -v git && command -v curl && command -v rg || { apt-get update && apt-get "
        "install -y --no-install-recommends ca-certificates curl git procps ripgrep; }"
    ),
    f"id {_USER} || useradd --create-home --shell /bin/bash {_USER}",
)
_RECIPE: Final = 1  # changes with how snapshots are built
_FIELDS: Final = ("cpu", "memory_gib", "disk_gib")
_NEEDS_IMAGE: Final = (
    "Daytona takes resources only with an image, and its default snapshot has {has:g}; "
    "name an image too"
)


@dataclass(frozen=True, slots=True)
class Build:
    """A snapshot of our own to be built.

    Attributes:
        image: The image it is built on; None is our own base.
        size: What its sandboxes get.
        artifacts: The files in it.
    """

    image: str | None
    size: Size
    artifacts: tuple[Artifact, ...]

    @property
    def name(self) -> str:
        """The same for the same image, size and files, whoever asks."""
        files = [_identity(each) for each in self.artifacts]
        recipe = json.dumps([_RECIPE, self.image, self.size, files])
        return f"{OURS}{hashlib.sha256(recipe.encode()).hexdigest()[:20]}"

    @property
    def recipe(self) -> Recipe:
        """How it is built. On our own base: the tools an agent wants, and a user not root."""
        files = {each.target: each.source for each in self.artifacts}
        if self.image is not None:
            return Recipe(self.image, self.size, files=files)
        return Recipe(_BASE, self.size, _PREPARE, files, _USER)


def artifacts_mark(artifacts: tuple[Artifact, ...]) -> str:
    """A word for these files, or an empty one for none."""
    files = json.dumps([_identity(each) for each in artifacts])
    return hashlib.sha256(files.encode()).hexdigest()[:12] if artifacts else ""


def _identity(artifact: Artifact) -> tuple[str, str, str, str]:
    return artifact.name, artifact.version, artifact.platform, artifact.target


@dataclass(frozen=True, slots=True)
class Offer:
    """What the account can give.

    Attributes:
        base_image: What is built on where a spec has artifacts and no image; None is ours.
        default: What sandboxes of the default snapshot have.
        most: The most that a sandbox can have.
    """

    base_image: str | None
    default: Size
    most: Size

    def build(self, spec: SandboxSpec) -> Build | None:
        """The snapshot to build for a spec, if its image is none that there is.

        Raises:
            UnsupportedError: A size that cannot be had is demanded.
        """
        named = spec.image is not None and spec.image.startswith(SNAPSHOT)
        if named:
            mark = artifacts_mark(spec.artifacts)
            if mark and not str(spec.image).endswith(f".{mark}"):
                raise _refusal("artifacts", "files cannot be added to a snapshot; name an image")
            return None
        if spec.image is None and not spec.artifacts:
            return None
        wanted = {field: self._whole(spec, field) for field in _FIELDS}
        return Build(spec.image or self.base_image, Size(**wanted), spec.artifacts)

    def _whole(self, spec: SandboxSpec, field: str) -> int:
        wanted: float = getattr(spec.resources, field)
        most: int = getattr(self.most, field)
        given = min(max(1, math.ceil(wanted)), most)
        if given != wanted and spec.strict and spec.demands(f"resources.{field}"):
            raise _refusal(
                f"resources.{field}={wanted:g}", f"Daytona gives whole numbers from 1 to {most}"
            )
        return given

    def check(self, spec: SandboxSpec, size: Size) -> None:
        """See that a snapshot that there is has what is demanded.

        Raises:
            UnsupportedError: It has not.
        """
        for field in _FIELDS:
            wanted: float = getattr(spec.resources, field)
            has: int = getattr(size, field)
            if wanted != has and spec.strict and spec.demands(f"resources.{field}"):
                raise _refusal(
                    f"resources.{field}={wanted:g}",
                    f"the snapshot has {has}"
                    if spec.image is not None
                    else _NEEDS_IMAGE.format(has=has),
                )


def _refusal(what: str, why: str) -> UnsupportedError:
    return UnsupportedError(
        f"{what} cannot be had: {why}; strict=False takes what there is instead",
        op="create",
        provider=PROVIDER,
    )


def wishes(spec: SandboxSpec) -> tuple[Difference, ...]:
    """What is wished for and known only once the sandbox is there; see `describe`."""
    wanted: dict[str, object] = {
        f"resources.{field}": getattr(spec.resources, field) for field in _FIELDS
    }
    if not spec.demands("workdir"):
        wanted["workdir"] = spec.workdir
    reasons = {"workdir": "only root can make it; the user of a Daytona sandbox is not root"}
    why = "Daytona gives whole numbers, and those of the snapshot"
    return tuple(
        Difference(field, value, None, reasons.get(field, why)) for field, value in wanted.items()
    )


def ends_at(labels: Mapping[str, str]) -> datetime | None:
    """When the life-time ends that was asked for; None where none was."""
    expires = labels.get(EXPIRES_LABEL)
    return None if expires is None else datetime.fromisoformat(expires)


def ttl_minutes(seconds: float, end: datetime | None) -> int:
    """Whole minutes that cover `seconds`, and no more than the end of the life-time asks for."""
    if end is not None:
        left = end - datetime.now(UTC)
        seconds = min(seconds, left.total_seconds() + 1)
    return max(1, math.ceil(seconds / 60))


def describe(machine: Machine, person: tuple[str, str] | None = None) -> SandboxInfo:
    """What is known of a sandbox.

    Args:
        machine: It.
        person: Its user and that user's home, where somebody has asked.
    """
    labels, remembered, wished = recall(machine.labels)
    user, home = person or (None, None)
    real: dict[str, object] = {
        f"resources.{field}": float(getattr(machine.size, field)) for field in _FIELDS
    }
    workdir = remembered.workdir
    if home is not None and workdir is None:
        workdir = real["workdir"] = "/work" if user == "root" else f"{home.rstrip('/')}/work"
    differences = tuple(
        replace(each, applied=real[each.field])
        for each in wished
        if each.field in real and real[each.field] != each.wanted
    )
    blocked = machine.blocked
    effective = Effective(
        image=remembered.image or f"{SNAPSHOT}{machine.snapshot}",
        cpu=machine.size.cpu,
        memory_gib=machine.size.memory_gib,
        disk_gib=machine.size.disk_gib,
        network=remembered.network if blocked is None else ("none" if blocked else "open"),
        user=user,
        workdir=workdir,
        isolation="container",
    )
    created = machine.created_at
    return SandboxInfo(
        id=machine.id,
        provider=PROVIDER,
        state=machine.state,
        labels=labels,
        created_at=datetime.fromisoformat(created) if created else None,
        effective=effective,
        differences=differences,
    )
