"""Whether the living sandbox of a name is what a session asks for; never silently less."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from sandboxkit.errors import InvalidSpecError
from sandboxkit.spec import ASKED_LABEL, NetworkPolicy, SandboxSpec

if TYPE_CHECKING:
    from sandboxkit.providers.info import SandboxInfo
    from sandboxkit.sandbox import Sandbox

# Compared in another way, brought along, or each host's own.
_NOT_COMPARED: Final = {"env", "labels", "artifacts", "lease_s", "strict"}


def asked_for(spec: SandboxSpec) -> str:
    """The value of `ASKED_LABEL`: the fields that the caller wrote."""
    fields = spec.model_dump(mode="json", exclude_unset=True, exclude=_NOT_COMPARED)
    return json.dumps(fields, separators=(",", ":"))


def check_same(name: str, spec: SandboxSpec, info: SandboxInfo) -> None:
    """Refuse a sandbox that is not what the caller has written. Fields left out fit any.

    Args:
        name: The session's name.
        spec: What the caller asks for.
        info: What lives.

    Raises:
        InvalidSpecError: It differs; the field is named.
    """
    asked = _flat(_asked(info))
    defaults = _flat(SandboxSpec().model_dump(mode="json"))
    for field, wanted in _flat(json.loads(asked_for(spec))).items():
        if field == "network":
            continue
        applied = getattr(info.effective, field, None)
        if wanted == applied:
            continue
        limit = field in type(spec.resources).model_fields
        if limit and spec.strict:  # what somebody put up with is not what is enforced
            raise _differs(name, field, wanted, applied)
        there = asked.get(field, defaults.get(field)) if applied is None else asked.get(field)
        if wanted != there:
            raise _differs(name, field, wanted, there if applied is None else applied)
    for label, value in spec.labels.items():
        if info.labels.get(label) != value:
            raise _differs(name, f"labels[{label!r}]", value, info.labels.get(label))


def policy_for(name: str, spec: SandboxSpec, info: SandboxInfo) -> NetworkPolicy | None:
    """The policy that this host keeps for it; None is what the backend has.

    A list of hosts that this host does not write goes on as it was.

    Raises:
        InvalidSpecError: The network that the backend gave it is another one.
    """
    before = NetworkPolicy.checked(_asked(info).get("network") or {})
    wanted = spec.network if spec.demands("network") else before
    applied = info.effective.network
    if before.native or wanted.native or wanted.mode == "open":  # the backend's own, for good
        fits = wanted == before
    else:  # that there is none at first is what a list stands on
        fits = applied != "open" or not spec.strict or not spec.demands("network")
    if not fits:
        shown = applied if before.mode == "none" else before.model_dump(exclude_defaults=True)
        raise _differs(name, "network", wanted.model_dump(exclude_defaults=True), shown)
    return wanted if wanted.by_gateway or wanted != before else None


async def check_env(name: str, spec: SandboxSpec, sandbox: Sandbox) -> None:
    """Refuse a sandbox whose environment is not what the caller has written.

    Raises:
        InvalidSpecError: A variable differs; it is named, its values are not.
        SandboxError: The sandbox failed.
    """
    if not spec.env:
        return
    said = (await sandbox.exec(["cat", "/proc/self/environ"], check=True)).stdout
    there = set(said.split(b"\0"))
    for variable, value in spec.env.items():
        if f"{variable}={value}".encode("utf-8", "surrogateescape") not in there:
            raise InvalidSpecError(
                f"the name {name!r} is in use by a sandbox in which env[{variable!r}] is not what "
                "was given; it was set when the sandbox was made. " + _ADVICE
            )


_ADVICE: Final = (
    "Leave it out to take the sandbox as it is, or end that one first: "
    "`await Session(..., name=...).destroy()`."
)


def _differs(name: str, field: str, wanted: object, there: object) -> InvalidSpecError:
    shown = "no limit" if there is None else f"{field}={there!r}"
    return InvalidSpecError(
        f"the name {name!r} is in use by a sandbox with {shown}, and {field}={wanted!r} was asked "
        f"for. {_ADVICE}"
    )


def _asked(info: SandboxInfo) -> Mapping[str, Any]:
    try:
        found: object = json.loads(info.labels.get(ASKED_LABEL, "{}"))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}  # pyright: ignore[reportUnknownVariableType]


def _flat(fields: Mapping[str, Any]) -> dict[str, Any]:
    return dict(_pairs(fields))


def _pairs(fields: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for field, value in fields.items():
        if field == "resources":
            yield from value.items()
        else:
            yield field, value
