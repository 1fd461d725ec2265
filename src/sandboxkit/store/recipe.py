"""What a session's sandbox was, as it is stored and made again. No value of a secret is in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from sandboxkit.errors import InvalidSpecError, UnsupportedError
from sandboxkit.spec import SandboxSpec
from sandboxkit.store.workspace import Workspace

if TYPE_CHECKING:
    from sandboxkit.gateway.secrets import Secret
    from sandboxkit.sandbox import Sandbox

VERSION: Final = 1

_OF_ONE_BACKEND: Final = {"template:": "e2b", "snapshot:": "daytona", "im-": "modal"}
_NOT_KEPT: Final = {"env", "artifacts"}  # values that may be secrets, and files of this machine


def recipe_of(
    spec: SandboxSpec, sandbox: Sandbox | None, secrets: Sequence[Secret], workspace: Workspace
) -> dict[str, Any]:
    """What is stored of a sandbox.

    Args:
        spec: As the caller gave it, without what the agent has added.
        sandbox: What came of it; None before it is made.
        secrets: Of which the names are stored.
        workspace: What is kept of its files.
    """
    fields = spec.model_dump(mode="json", exclude_unset=True, exclude=_NOT_KEPT)
    # What it could reach must not become more by default; and the agent's own files and the
    # names in its conversation are of this directory.
    fields |= {"network": spec.network.model_dump(mode="json")}
    if sandbox is not None:
        fields |= {"workdir": sandbox.workdir}
    return {
        "version": VERSION,
        "spec": fields,
        "env": sorted(spec.env),
        "secrets": sorted(secret.name for secret in secrets),
        "artifacts": sorted(artifact.name for artifact in spec.artifacts),
        "workspace": workspace.model_dump(mode="json", exclude_unset=True),
    }


def workspace_of(recipe: Mapping[str, Any]) -> Workspace:
    """The rules that the session has kept its files by."""
    return Workspace.checked(cast("dict[str, Any]", recipe.get("workspace", {})))


def spec_of(
    recipe: Mapping[str, Any],
    given: SandboxSpec | None,
    fields: Mapping[str, Any],
    *,
    secrets: Sequence[Secret],
    backend: str | None,
) -> SandboxSpec:
    """The spec of a sandbox in which a session goes on.

    Args:
        recipe: What was stored.
        given: A spec of the caller's, whose fields win.
        fields: Single fields, which win over both.
        secrets: Of the caller's.
        backend: The name of the backend, where one was chosen.

    Raises:
        UnsupportedError: Something that cannot be stored was not given again, or the backend
            cannot have what the session had; it names the field.
        InvalidSpecError: A field is wrong.
    """
    if recipe.get("version") != VERSION:
        raise UnsupportedError(
            f"the stored spec has version {recipe.get('version')}; this sandboxkit knows {VERSION}"
        )
    try:
        stored = SandboxSpec.build(None, **recipe["spec"])
        wanted = SandboxSpec.build(stored, **({} if given is None else given.explicit()))
    except (InvalidSpecError, TypeError) as error:
        raise UnsupportedError(f"the stored spec cannot be applied: {error}") from error
    spec = SandboxSpec.build(wanted, **fields)
    has = {
        "env": set(spec.env),
        "secrets": {secret.name for secret in secrets},
        "artifacts": {artifact.name for artifact in spec.artifacts},
    }
    for field, names in has.items():
        if missing := sorted(set(recipe.get(field, ())) - names):
            raise UnsupportedError(
                f"{field}: the session had {', '.join(missing)}, which a store does not keep; "
                f"give it again: Session.resume(..., {field}=...)",
                op="resume",
            )
    _check_image(spec.image, backend)
    return spec


def check_place(recipe: Mapping[str, Any], sandbox: Sandbox) -> None:
    """Refuse a sandbox whose work directory is another one.

    Raises:
        UnsupportedError: It is.
    """
    before = recipe["spec"].get("workdir")  # none where its host died before it had one
    if before is not None and sandbox.workdir != before:
        raise UnsupportedError(
            f"workdir: the session worked in {before!r}, which this backend cannot have; here it "
            f"would be {sandbox.workdir!r}",
            op="resume",
            provider=sandbox.info.provider,
        )


def _check_image(image: str | None, backend: str | None) -> None:
    for start, home in _OF_ONE_BACKEND.items():
        if image is not None and image.startswith(start) and backend not in {None, home}:
            raise UnsupportedError(
                f"image={image!r} is one of {home}'s, and {backend} does not have it; give one "
                "that it has: Session.resume(..., image=...)",
                op="resume",
                provider=backend,
            )
