"""A spec from options of the command line; what is wrong with one is a wrong usage."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import typer

from sandboxkit.errors import InvalidSpecError
from sandboxkit.spec import SandboxSpec, check_env


def spec_from(**options: Any) -> SandboxSpec:
    """The spec with those options that were given.

    Raises:
        typer.BadParameter: One is wrong.
    """
    given = {name: value for name, value in options.items() if value is not None}
    try:
        return SandboxSpec.build(**given)
    except InvalidSpecError as error:
        raise typer.BadParameter(error.message) from None


def spec_for(
    sandbox_id: str | None, *, network: str | dict[str, Any], **options: Any
) -> SandboxSpec:
    """The same for a sandbox that may be living, given by `--id`, and then is as it is.

    Raises:
        typer.BadParameter: One is wrong; or there are options beside `--id`.
    """
    given = any(value is not None for value in options.values())
    if sandbox_id is not None and (network != "none" or given):
        message = "a living sandbox is as it is; leave the other options out"
        raise typer.BadParameter(message, param_hint="--id")
    return spec_from(network=network, **options)


def policy_from(network: str, allow: Sequence[str] | None) -> str | dict[str, Any]:
    """The spec's `network` from `--network` and `--allow`.

    Raises:
        typer.BadParameter: Both were given.
    """
    if not allow:
        return network
    if network != "none":
        raise typer.BadParameter("it is one or the other: --network or --allow")
    return {"mode": "allow", "hosts": list(allow)}


def env_from(pairs: Iterable[str]) -> dict[str, str]:
    """The environment from `NAME=VALUE`; the message of an error holds no value.

    Raises:
        typer.BadParameter: One is not of this form.
    """
    env: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise typer.BadParameter("must be NAME=VALUE", param_hint="--env")
        env[name] = value
    try:
        check_env(env)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--env") from None
    return env
