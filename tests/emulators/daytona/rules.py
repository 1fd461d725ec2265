"""What the service refuses in a request to create: combinations, ranges, names."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from tests.emulators.daytona.account import REGIONS, Account
from tests.emulators.daytona.gate import Json, list_of, strings_of, text_of
from tests.emulators.daytona.refusals import Refused

DEFAULTS = {"cpu": 1, "memory": 1, "disk": 3}
LIMITS = {"cpu": 4, "memory": 8, "disk": 10}  # cores, GiB, GiB
USER = "daytona"
CONTAINER = "container"
CLASSES = frozenset({CONTAINER, "linux-vm"})

_AUTO_STOP, _AUTO_PAUSE, _AUTO_ARCHIVE, _AUTO_DELETE = 15, 60, 7 * 24 * 60, -1
_MOST_ALLOWED = 10
_DOMAIN = re.compile(r"(?:\*\.)?(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)+[a-z]{2,}", re.IGNORECASE)
_NOT_EMULATED = ("volumes", "secrets", "linkedSandbox", "spot", "gpu", "outboundProxyUrl")


@dataclass(frozen=True, slots=True)
class Build:
    """An image to be built.

    Attributes:
        dockerfile: Its text.
        contexts: The hashes of uploaded archives, whose files it may copy.
    """

    dockerfile: str
    contexts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Order:
    """A sandbox as it was asked for, with the service's defaults filled in.

    Attributes:
        snapshot: The name of the snapshot that it starts from; None with `build`.
    """

    name: str | None
    user: str
    env: Mapping[str, str]
    labels: dict[str, str]
    public: bool
    target: str
    snapshot: str | None
    build: Build | None
    cpu: int
    memory: int
    disk: int
    sandbox_class: str
    block_all: bool
    allow_list: str | None
    domains: str | None
    auto_stop: int
    auto_pause: int
    auto_archive: int
    auto_delete: int
    ttl: int


def order_of(account: Account, body: Json) -> Order:
    """The order in the body of `POST /sandbox`; refuses what the service refuses."""
    for field in _NOT_EMULATED:
        if body.get(field):
            raise Refused(400, f"{field} is not emulated")
    name = body.get("name")
    if name is not None:
        name = text_of(body, "name")
        if any(box.name == name for box in account.boxes.values()):
            raise Refused(409, f"Sandbox with name {name} already exists")
    build = build_of(body)
    snapshot = None
    sandbox_class = CONTAINER
    if build is not None:
        if body.get("snapshot"):
            raise Refused(400, "Cannot specify both a snapshot and a build info entry")
        cpu, memory, disk = resources_of(body)
    else:
        if any(body.get(field) is not None for field in DEFAULTS):
            raise Refused(400, "Cannot specify Sandbox resources when using a snapshot")
        found = account.snapshots.usable(body.get("snapshot"))
        snapshot, sandbox_class = found.name, found.sandbox_class
        cpu, memory, disk = found.cpu, found.memory, found.disk
    _check_quota(account, cpu)
    block_all, allow_list, domains = network_of(account, body)
    virtual = sandbox_class != CONTAINER
    auto_delete = _interval(body, "autoDeleteInterval", _AUTO_DELETE, least=-1)
    auto_stop = _interval(body, "autoStopInterval", 0 if virtual else _AUTO_STOP)
    pauses = virtual and auto_delete != 0 and body.get("autoStopInterval") is None
    auto_pause = _interval(body, "autoPauseInterval", _AUTO_PAUSE if pauses else 0)
    if auto_stop and auto_pause:
        raise Refused(400, "autoStopInterval and autoPauseInterval are mutually exclusive")
    if auto_pause and not virtual:
        raise Refused(400, "Auto-pause is only supported for VM sandboxes")
    if auto_pause and auto_delete == 0:
        raise Refused(400, "Ephemeral sandboxes cannot have auto-pause enabled")
    return Order(
        name=name,
        user=text_of(body, "user") if body.get("user") is not None else USER,
        env=strings_of(body, "env"),
        labels=strings_of(body, "labels"),
        public=_flag(body, "public"),
        target=_region(body.get("target")),
        snapshot=snapshot,
        build=build,
        cpu=cpu,
        memory=memory,
        disk=disk,
        sandbox_class=sandbox_class,
        block_all=block_all,
        allow_list=allow_list,
        domains=domains,
        auto_stop=auto_stop,
        auto_pause=auto_pause,
        auto_archive=_interval(body, "autoArchiveInterval", _AUTO_ARCHIVE),
        auto_delete=auto_delete,
        ttl=_interval(body, "ttlMinutes", 0),
    )


def build_of(body: Json) -> Build | None:
    """The image to build, if the body asks for one."""
    found: object = body.get("buildInfo")
    if found is None:
        return None
    if not isinstance(found, dict):
        raise Refused(400, "buildInfo must be an object")
    info = cast("Json", found)
    return Build(text_of(info, "dockerfileContent"), tuple(list_of(info, "contextHashes")))


def resources_of(body: Json) -> tuple[int, int, int]:
    """Cores, GiB of memory and GiB of disk: whole numbers within the limits of a sandbox."""
    found = {field: body.get(field) for field in DEFAULTS}
    for field, value in found.items():
        if value is None:
            found[field] = DEFAULTS[field]
        elif not isinstance(value, int) or isinstance(value, bool):
            raise Refused(400, f"{field} must be an integer number")
        elif value < 1:
            raise Refused(400, f"{field} must not be less than 1")
        elif value > LIMITS[field]:
            asked = f"{field.capitalize()} request {value}"
            raise Refused(403, f"{asked} exceeds maximum allowed per sandbox ({LIMITS[field]})")
    cpu, memory, disk = (int(value or 0) for value in found.values())
    return cpu, memory, disk


def network_of(account: Account, body: Json) -> tuple[bool, str | None, str | None]:
    """Whether all is blocked, the networks allowed, the domains allowed."""
    blocked = _flag(body, "networkBlockAll")
    allowed, domains = body.get("networkAllowList"), body.get("domainAllowList")
    for entry in _entries(allowed, "networkAllowList"):
        try:
            ipaddress.IPv4Network(entry, strict=False)
        except ValueError:
            raise Refused(400, f'Invalid CIDR: "{entry}"') from None
        if "/" not in entry:
            raise Refused(400, f'Invalid CIDR: "{entry}" has no network prefix')
    for entry in _entries(domains, "domainAllowList"):
        if _DOMAIN.fullmatch(entry) is None:
            raise Refused(400, f'Invalid domain: "{entry}"')
    if account.settings.tier < 3 and (blocked or allowed or domains):
        if account.settings.says_no:
            raise Refused(403, "Network settings cannot be overridden on this tier")
        return False, None, None
    return blocked, allowed or None, domains or None


def _entries(found: object, field: str) -> list[str]:
    if not found:
        return []
    if not isinstance(found, str):
        raise Refused(400, f"{field} must be a string")
    entries = [entry.strip() for entry in found.split(",")]
    if len(entries) > _MOST_ALLOWED:
        raise Refused(400, f"{field} cannot contain more than {_MOST_ALLOWED} entries")
    return entries


def _check_quota(account: Account, cpu: int) -> None:
    quota = account.settings.cpu_quota
    if quota is not None and cpu + sum(box.order.cpu for box in account.boxes.values()) > quota:
        raise Refused(403, f"Total CPU limit exceeded. Maximum allowed: {quota}")


def _region(target: object) -> str:
    if target is None:
        return "us"
    if target not in REGIONS:
        raise Refused(404, f"Region {target} not found")
    return str(target)


def _interval(body: Json, field: str, default: int, *, least: int = 0) -> int:
    value = body.get(field)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise Refused(400, f"{field} must be an integer of at least {least}")
    return value


def _flag(body: Json, field: str) -> bool:
    value = body.get(field)
    if value is not None and not isinstance(value, bool):
        raise Refused(400, f"{field} must be a boolean value")
    return bool(value)
