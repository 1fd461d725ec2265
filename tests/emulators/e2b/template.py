"""What sandboxes are made from: templates that were built, and snapshots."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal

from tests.emulators.machines import Machine, Machines

DEFAULT_CPUS: Final = 2
DEFAULT_MEMORY_MIB: Final = 512
TEAM: Final = "emulated"
DEFAULT_TAG: Final = "default"
# What the real build does to every image: its user has no password, and a shell. In E2B's own
# image that is user 1000, as the engine's default one has another: the one becomes the other.
PROVISION: Final = """
! id -u agent >/dev/null 2>&1 || userdel -rf agent 2>/dev/null || true
id -u user >/dev/null 2>&1 || useradd -m -s /bin/bash user
mkdir -p /home/user && chown user: /home/user
test -x /bin/bash
"""

Status = Literal["waiting", "building", "ready", "error"]
Json = dict[str, Any]


@dataclass
class Build:
    """One build of a template.

    Attributes:
        image: The engine's image, once it is ready.
        wanted_tags: What it will be called when it is ready.
        log: What was said, as the API tells it.
        reason: Why it failed, as the API tells it.
        homes: The homes of the users that were asked for.
    """

    id: str
    cpus: int
    memory_mib: int
    status: Status = "waiting"
    image: str = ""
    env: dict[str, str] = field(default_factory=dict[str, str])
    user: str = "user"
    workdir: str = "/home/user"
    wanted_tags: list[str] = field(default_factory=list[str])
    log: list[Json] = field(default_factory=list[Json])
    reason: Json | None = None
    homes: dict[str, str] = field(default_factory=dict[str, str])

    def say(self, message: str, step: str, level: str = "info") -> None:
        """Write a line into its log."""
        now = datetime.now(UTC).isoformat()
        self.log.append({"timestamp": now, "message": message, "level": level, "step": step})

    async def home(self, user: str, machine: Machine) -> str | None:
        """A user's home; None if the machine knows no such user."""
        if user not in self.homes:
            _code, said, _err = await machine.run(["cat", "/etc/passwd"])
            entries = [line.split(":") for line in said.decode().splitlines()]
            self.homes |= {entry[0]: entry[5] for entry in entries if len(entry) == 7}
        return self.homes.get(user)


@dataclass
class Template:
    """A template, under all its names and tags.

    Attributes:
        names: Without the team's.
        builds: By id, all that were ever asked for.
        tags: From a tag to the id of the build that it names.
        sandbox_id: The sandbox that it is a snapshot of.
    """

    id: str
    names: list[str]
    builds: dict[str, Build] = field(default_factory=dict[str, Build])
    tags: dict[str, str] = field(default_factory=dict[str, str])
    sandbox_id: str | None = None

    @property
    def full_names(self) -> list[str]:
        """Its names as the API tells them."""
        return [f"{TEAM}/{name}" for name in self.names]

    def ready(self, tag: str) -> Build | None:
        """The build under a tag, if there is one that can be used."""
        build = self.builds.get(self.tags.get(tag, ""))
        return build if build is not None and build.status == "ready" else None

    def snapshot(self, tag: str) -> Json:
        """It, as the API tells of a snapshot."""
        names = [f"{name}:{tag}" for name in self.full_names]
        return {"snapshotID": names[0] if names else f"{self.id}:{tag}", "names": names}


def new_id() -> str:
    """An id such as the real ones: 20 lower-case letters and digits."""
    return secrets.token_hex(10)


def parse(reference: str) -> tuple[str, str]:
    """The name or id, and the tag, in what a template was asked for by."""
    name, _, tag = reference.partition(":")
    return name.removeprefix(f"{TEAM}/"), tag or DEFAULT_TAG


async def provisioned(machines: Machines, image: str | None) -> str:
    """The image that an image becomes when it is made ready for sandboxes; to be removed."""
    machine = await machines.create(image=image)
    try:
        code, _said, error = await machine.run(["sh", "-ec", PROVISION])
        if code:
            raise RuntimeError(f"The base template cannot be made: {error.decode()}")
        return await machine.commit()
    finally:
        await machine.remove()
