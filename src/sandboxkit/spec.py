"""What a sandbox shall be: values only, checked before anything is created."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from sandboxkit.errors import InvalidSpecError
from sandboxkit.gateway.hosts import HostError, parse_rule

LABEL_PREFIX = "sandboxkit."
OWNER_LABEL = "sandboxkit.owner"
KEY_LABEL = "sandboxkit.key"
CREATED_LABEL = "sandboxkit.created"
EXPIRES_LABEL = "sandboxkit.expires"
LEASE_LABEL = "sandboxkit.lease"
"""Seconds that it outlives the last sign of life from its hosts."""
SESSION_LABEL = "sandboxkit.session"
"""The id of the session that it was made for, where it was made for one."""
IDLE_LABEL = "sandboxkit.idle"
"""What its host does with it when it is idle, where that is not its end."""
NAME_LABEL = "sandboxkit.name"
"""The name by which a session finds it, where it has one."""
ASKED_LABEL = "sandboxkit.asked"
"""Of a named one, as JSON: the fields that its creator wrote; no value of `env`, no secret."""
NETWORK_LABEL = "sandboxkit.network"
"""`allow` where a list of hosts is kept by the host that created the sandbox."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
USER_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
"""A user's name or number, without a group."""
_ENV_NAME = re.compile(r"[^=\0]+")


class Value(BaseModel):
    """A frozen value whose wrong fields raise `InvalidSpecError`, not pydantic's error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def checked(cls, values: Mapping[str, Any]) -> Self:
        """Build from plain values.

        Raises:
            InvalidSpecError: Naming each wrong field, its value and what is expected.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise InvalidSpecError(_describe(cls.__name__, error)) from None

    def explicit(self) -> dict[str, Any]:
        """The fields that the caller wrote, as plain values."""
        return self.model_dump(exclude_unset=True)


def _describe(what: str, error: ValidationError) -> str:
    lines: list[str] = []
    for problem in error.errors(include_url=False, include_context=False):
        place = ".".join(str(part) for part in problem["loc"])
        # A value of the environment may be a secret: the name is enough.
        shown = "" if place.startswith("env") else f", not {problem['input']!r}"
        lines.append(f"{place}: {problem['msg']}{shown}")
    return f"{what} is not valid: " + "; ".join(lines)


class Resources(Value):
    """The limits of one sandbox.

    The defaults are those of Anthropic's guide to hosting the Claude Agent SDK: 1 CPU,
    1 GiB of memory, 5 GiB of disk.

    A default is a wish: a backend that cannot enforce it says so in
    `SandboxInfo.differences`. A value that the caller wrote is a demand: it is
    enforced or refused.

    Attributes:
        cpu: CPUs, fractions allowed.
        memory_gib: Memory in GiB; swap is not added to it.
        disk_gib: Writable disk in GiB.
        pids: How many processes and threads at once (the Claude Code CLI alone
            needs over 100 threads).
    """

    cpu: float = Field(default=1.0, gt=0, le=512)
    memory_gib: float = Field(default=1.0, ge=0.0625, le=4096)
    disk_gib: float = Field(default=5.0, gt=0, le=65536)
    pids: int = Field(default=512, ge=16, le=4_194_304)


class NetworkPolicy(Value):
    """What the sandbox can reach by itself. Tunnels through the channel always work.

    Attributes:
        mode: `none`, no network at all; `allow`, the hosts of a list; `open`, the
            backend's own network.
        hosts: For `allow`: a host, `*.` and a host (all names below it, at any depth, not
            the host itself), each perhaps with a port; without one, ports 443 and 80.
            Kept in canonical form. An empty list allows nothing. Whatever is on the
            list, no private, loopback, link-local or metadata address is ever reached.
        native: For `allow`: whether the backend's own filter does it, rather than the
            gateway on this machine, which is the same on every backend.
    """

    mode: Literal["none", "allow", "open"] = "none"
    hosts: tuple[str, ...] = ()
    native: bool = False

    @classmethod
    def none(cls) -> Self:
        """No network: the default."""
        return cls(mode="none")

    @classmethod
    def allow(cls, hosts: Sequence[str], *, native: bool = False) -> Self:
        """The hosts of a list, and nothing else.

        Args:
            hosts: Such as `["api.example.com", "*.example.org:443", "example.net:8080"]`.
            native: Whether the backend's own filter does it.

        Raises:
            InvalidSpecError: An entry is no such host; it is named.
        """
        return cls.checked({"mode": "allow", "hosts": hosts, "native": native})

    @classmethod
    def open(cls) -> Self:
        """The backend's own network, without a filter."""
        return cls(mode="open")

    @field_validator("hosts")
    @classmethod
    def _hosts_are_canonical(cls, hosts: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if hosts and info.data.get("mode") != "allow":
            raise ValueError("a list of hosts belongs to the mode 'allow'")
        rules: dict[str, None] = {}
        for entry in hosts:
            try:
                rules[str(parse_rule(entry))] = None
            except HostError as error:
                raise ValueError(f"{entry!r} is not an entry: {error}") from None
        return tuple(rules)

    @field_validator("native")
    @classmethod
    def _native_filters(cls, native: bool, info: ValidationInfo) -> bool:  # noqa: FBT001
        if native and info.data.get("mode") != "allow":
            raise ValueError("there is nothing to filter without the mode 'allow'")
        return native

    @property
    def by_gateway(self) -> bool:
        """Whether the gateway keeps it; then the backend gives no network at all."""
        return self.mode == "allow" and not self.native


class Artifact(Value):
    """A read-only file from the host that a sandbox shall have, cached per version.

    Attributes:
        name: What it is, such as `claude-code`.
        version: Its version; name, version and platform together are the cache key.
        platform: Such as `linux-x86_64`.
        source: The file on the host.
        target: The absolute path in the sandbox; its directory holds nothing else.
    """

    name: str = Field(pattern="^" + _NAME.pattern + "$")
    version: str = Field(pattern="^" + _NAME.pattern + "$")
    platform: str = Field(pattern="^" + _NAME.pattern + "$")
    source: Path
    target: str = Field(pattern=r"^/.+/.+")


def _network(value: object) -> object:
    return {"mode": value} if isinstance(value, str) else value


def _user(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


class SandboxSpec(Value):
    """All that defines a sandbox. Every field has its default here.

    Attributes:
        image: The image or template; None is the backend's default image.
        resources: The limits.
        env: Environment of every process. Visible to everything in the sandbox:
            not the place for a key. Values never show in `repr`.
        workdir: Where commands start; made if it is missing.
        user: Who commands run as, by name or number; None is the backend's
            unprivileged user.
        labels: The caller's own labels, to find the sandbox by.
        lifetime_s: Seconds after which the sandbox ends, whatever happens; None
            is without a limit of its own (the lease still holds).
        idle_timeout_s: Seconds without any running command, open file or tunnel
            after which the sandbox is idle (see `Sandbox.activity`); None is never.
        on_idle: What happens then: `destroy`, it ends. The others are for a `Session`, whose
            next prompt wakes it: `pause`, it is frozen; `snapshot`, its files are kept as an
            image and the machine ends; `save`, the session is saved in its store, and the
            machine ends. Where no host lives at that time, it ends.
        lease_s: Seconds that the sandbox outlives the last sign of life from its
            host. A killed host leaves nothing behind for longer than this.
        ports: Ports that will be exposed, for backends that must know beforehand.
        network: What it can reach; also given as the word `none` or `open`.
        runtime: The isolation runtime, such as `runsc`; None is the backend's own.
        artifacts: Read-only files from the host.
        strict: Whether an explicit value that the backend cannot enforce is refused
            (the default) or recorded as a difference.
    """

    image: str | None = Field(default=None, min_length=1)
    resources: Resources = Resources()
    env: Mapping[str, str] = Field(default_factory=dict[str, str], repr=False)
    workdir: str = "/work"
    user: Annotated[str | None, BeforeValidator(_user)] = None
    labels: Mapping[str, str] = Field(default_factory=dict[str, str])
    lifetime_s: float | None = Field(default=None, gt=0)
    idle_timeout_s: float | None = Field(default=None, gt=0)
    on_idle: Literal["destroy", "pause", "snapshot", "save"] = "destroy"
    lease_s: float = Field(default=60.0, ge=1.0, le=86_400.0)
    ports: tuple[Annotated[int, Field(ge=1, le=65535)], ...] = ()
    network: Annotated[NetworkPolicy, BeforeValidator(_network)] = NetworkPolicy()
    runtime: str | None = Field(default=None, min_length=1)
    artifacts: tuple[Artifact, ...] = ()
    strict: bool = True

    @field_validator("env")
    @classmethod
    def _env_is_possible(cls, env: Mapping[str, str]) -> Mapping[str, str]:
        check_env(env)
        return env

    @field_validator("workdir")
    @classmethod
    def _workdir_is_plain(cls, workdir: str) -> str:
        if not workdir.startswith("/") or "\0" in workdir or ".." in workdir.split("/"):
            raise ValueError("must be an absolute path without '..'")
        # A working directory under /proc was a way out of containers (CVE-2024-21626).
        if workdir == "/proc" or workdir.startswith("/proc/"):
            raise ValueError("must not lie under /proc")
        return workdir

    @field_validator("user")
    @classmethod
    def _user_is_plain(cls, user: str | None) -> str | None:
        if user is not None and not USER_NAME.fullmatch(user):
            raise ValueError("must be a user name or number, without a group")
        return user

    @field_validator("labels")
    @classmethod
    def _labels_are_plain(cls, labels: Mapping[str, str]) -> Mapping[str, str]:
        for name, value in labels.items():
            if not _NAME.fullmatch(name):
                raise ValueError(f"the name {name!r} must be 1 to 63 letters, digits, _ . -")
            if len(value) > 256 or not value.isprintable():
                raise ValueError(f"the value of {name!r} must be at most 256 printable characters")
        return labels

    @model_validator(mode="after")
    def _idle_is_a_time(self) -> Self:
        if self.on_idle != "destroy" and self.idle_timeout_s is None:
            raise ValueError(f"on_idle={self.on_idle!r} needs idle_timeout_s: after how long")
        return self

    @property
    def key(self) -> str:
        """The unique name chosen for this sandbox before it is created."""
        return self.labels[KEY_LABEL]

    @classmethod
    def build(cls, base: SandboxSpec | None = None, **fields: Any) -> SandboxSpec:
        """A spec from another one and single fields; those of `Resources` count too.

        Raises:
            InvalidSpecError: A field is unknown or its value wrong.
        """
        values: dict[str, Any] = base.explicit() if base is not None else {}
        limits: dict[str, Any] = dict(values.pop("resources", {}))
        given: Resources | Mapping[str, Any] = fields.pop("resources", {})
        limits |= given.explicit() if isinstance(given, Resources) else dict(given)
        limits |= {name: fields.pop(name) for name in Resources.model_fields if name in fields}
        labels: Mapping[str, str] = fields.get("labels") or {}
        for name in labels:
            if name.startswith(LABEL_PREFIX):
                raise InvalidSpecError(f"labels: {name!r} is reserved, as all {LABEL_PREFIX}*")
        return cls.checked({**values, **fields, **({"resources": limits} if limits else {})})

    def demands(self, field: str) -> bool:
        """Whether the caller wrote `field` (dotted), rather than it being a default."""
        head, _, rest = field.partition(".")
        if head not in self.model_fields_set:
            return False
        return not rest or rest in self.resources.model_fields_set


def check_env(env: Mapping[str, str]) -> None:
    """Check names and values of environment variables.

    Raises:
        ValueError: A name is empty or holds `=` or NUL, or a value holds NUL. The
            message names the variable, never its value.
    """
    for name, value in env.items():
        if not _ENV_NAME.fullmatch(name):
            raise ValueError(f"the name {name!r} must not be empty or hold '=' or NUL")
        if "\0" in value:
            raise ValueError(f"the value of {name} must not hold NUL")
