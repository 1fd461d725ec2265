"""What may be asked of a sandbox: the checks of the real service, as far as they are known."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass

from grpclib import GRPCError, Status
from modal_proto import api_pb2 as api

MAX_LIFE_S = 24 * 3600
ARG_MAX = 2**16
# The least and most of a request: cores in thousandths, memory in MiB.
_MILLI_CPU = 100, 64_000
_MEMORY = 128, 344_064
_DEFAULT_MILLI_CPU, _DEFAULT_MEMORY = 125, 128
_NAME = re.compile(r"[A-Za-z0-9._-]{1,63}")
_NOT_EMULATED = (
    "nfs_mounts",
    "s3_mounts",
    "cloud_bucket_mounts",
    "volume_mounts",
    "i6pn_enabled",
    "proxy_id",
    "enable_snapshot",
    "custom_domain",
    "include_oidc_identity_token",
    "readiness_probe",
    "experimental_outbound_policy",
    "outbound_policy",
)
# A request without a limit may use more, up to what the machine has to give.
_VCPUS = 2  # of a core, which is a physical one
_FREE_CPUS, _FREE_MEMORY_MIB = 2.0, 2048


@dataclass(frozen=True, slots=True)
class Limits:
    """What a machine is given.

    Attributes:
        cpus: The CPU limit, in CPUs as a machine counts them.
        memory_mib: The memory limit, in MiB.
        network: Whether it reaches anything outside.
        workdir: Where its programs start.
    """

    cpus: float
    memory_mib: int
    network: bool
    workdir: str

    @classmethod
    def of(cls, definition: api.Sandbox, workdir: str) -> Limits:
        """The limits for a definition."""
        asked = definition.resources
        return cls(
            cpus=min(asked.milli_cpu_max * _VCPUS / 1000 or _FREE_CPUS, os.cpu_count() or 1),
            memory_mib=asked.memory_mb_max or max(_FREE_MEMORY_MIB, asked.memory_mb),
            network=definition.network_access.network_access_type == api.NetworkAccess.OPEN,
            workdir=definition.workdir or workdir,
        )


def check(definition: api.Sandbox) -> None:
    """Refuse what the service refuses, and what is not emulated.

    Raises:
        GRPCError: INVALID_ARGUMENT or UNIMPLEMENTED, with the field's name.
    """
    for name in _NOT_EMULATED:
        value = getattr(definition, name)
        if value.ByteSize() if hasattr(value, "ByteSize") else value:
            raise GRPCError(Status.UNIMPLEMENTED, f"{name} of a sandbox is not emulated")
    if not 1 <= definition.timeout_secs <= MAX_LIFE_S:
        raise _invalid(f"timeout must be from 1 s to {MAX_LIFE_S} s: {definition.timeout_secs}")
    if definition.name and not _NAME.fullmatch(definition.name):
        raise _invalid(f"Invalid sandbox name: {definition.name!r}")
    if definition.workdir and not definition.workdir.startswith("/"):
        raise _invalid(f"workdir must be an absolute path: {definition.workdir!r}")
    check_arguments(definition.entrypoint_args)
    _check_network(definition)
    _check_resources(definition.resources)


def check_arguments(arguments: Iterable[str]) -> None:
    """Refuse a command line that is too long."""
    total = sum(len(argument) for argument in arguments)
    if total > ARG_MAX:
        raise _invalid(f"The arguments have {total} characters; at most {ARG_MAX} are allowed")


def _check_network(definition: api.Sandbox) -> None:
    access = definition.network_access
    kind = access.network_access_type
    if kind == api.NetworkAccess.UNSPECIFIED:
        raise _invalid("network_access is required")
    if kind == api.NetworkAccess.BLOCKED and definition.open_ports.ports:
        raise _invalid("A sandbox without network cannot have open ports")
    if kind != api.NetworkAccess.ALLOWLIST and (access.allowed_cidrs or access.allowed_domains):
        raise _invalid("An allow-list needs the network access type ALLOWLIST")
    ports = [each.port for each in definition.open_ports.ports]
    if len(set(ports)) != len(ports):
        raise _invalid(f"A port is declared twice: {ports}")
    if not all(1 <= port <= 65535 for port in ports):
        raise _invalid(f"Not a port: {ports}")


def _check_resources(asked: api.Resources) -> None:
    if asked.gpu_config.ByteSize() and asked.gpu_config.count:
        raise _invalid("A version 2 sandbox has no GPU")
    if asked.ephemeral_disk_mb:
        raise _invalid("A sandbox has no size of disk")
    _check_range("CPU", asked.milli_cpu, asked.milli_cpu_max, _MILLI_CPU, _DEFAULT_MILLI_CPU)
    _check_range("memory", asked.memory_mb, asked.memory_mb_max, _MEMORY, _DEFAULT_MEMORY)


def _check_range(what: str, asked: int, limit: int, allowed: tuple[int, int], least: int) -> None:
    low, high = allowed
    for value in (asked, limit):
        if value and not low <= value <= high:
            raise _invalid(f"{what} must be from {low} to {high}: {value}")
    if limit and limit < (asked or least):
        raise _invalid(f"The {what} limit {limit} is below the request {asked or least}")


def _invalid(message: str) -> GRPCError:
    return GRPCError(Status.INVALID_ARGUMENT, message)
