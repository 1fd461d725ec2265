"""How the machine does, by the kernel's own files: what a host asks after its health is told."""

from __future__ import annotations

import os
from typing import Any, Dict, Optional

_CGROUP = "/sys/fs/cgroup/"
_NO_LIMIT = 1 << 60  # version 1 writes a very large number instead of `max`


def vitals() -> Dict[str, Any]:
    """Each value is null where the kernel does not tell. Some small reads from memory, no disk."""
    used, limit = _memory()
    cpu_us = _field(_CGROUP + "cpu.stat", "usage_usec")
    cpu_ns = _number(_CGROUP + "cpuacct/cpuacct.usage")
    cpu_s = cpu_us / 1e6 if cpu_us is not None else cpu_ns / 1e9 if cpu_ns is not None else None
    return {"memory_used": used, "memory_limit": limit, "cpu_s": cpu_s}


def _memory() -> Any:
    """Bytes in use that cannot just be given back, and how many there may be."""
    total = _kib("MemTotal")
    used = _first("memory.current", "memory/memory.usage_in_bytes")
    limit = _first("memory.max", "memory/memory.limit_in_bytes")
    if used is None:  # a machine of its own, without a limit inside
        available = _kib("MemAvailable")
        known = total is not None and available is not None
        return (total - available if known else None), total  # type: ignore[operator]
    cache = _field(_CGROUP + "memory.stat", "inactive_file")
    if cache is None:
        cache = _field(_CGROUP + "memory/memory.stat", "total_inactive_file")
    limits = [each for each in (limit, total) if each is not None and each < _NO_LIMIT]
    return max(0, used - (cache or 0)), min(limits) if limits else None


def _first(*names: str) -> Optional[int]:
    for name in names:
        found = _number(_CGROUP + name)
        if found is not None:
            return found
    return None


def _kib(name: str) -> Optional[int]:
    found = _field("/proc/meminfo", name + ":")
    return None if found is None else found * 1024


def _number(path: str) -> Optional[int]:
    text = _read(path).strip()
    return int(text) if text.isdigit() else None


def _field(path: str, name: str) -> Optional[int]:
    for line in _read(path).splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == name and words[1].isdigit():
            return int(words[1])
    return None


def _read(path: str) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return ""
    try:
        return os.read(descriptor, 16384).decode("ascii", "replace")
    except OSError:
        return ""
    finally:
        os.close(descriptor)
