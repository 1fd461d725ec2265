"""Which service has the model, by the variables that Claude Code goes by, and with which key."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Final

from sandboxkit.agents.credentials import CREDENTIALS
from sandboxkit.errors import AgentError, InvalidSpecError, UnsupportedError

if TYPE_CHECKING:
    from sandboxkit.gateway.model.upstream import Upstream

__all__ = ["CREDENTIALS", "upstream_for"]

_NOT_YET: Final = ("CLAUDE_CODE_OAUTH_TOKEN",)


def check_choice(upstream: Upstream | None, model_url: str | None, api_key: str | None) -> None:
    """Refuse an agent that is told its service twice.

    Raises:
        InvalidSpecError: It is.
    """
    if upstream is not None and (model_url is not None or api_key is not None):
        raise InvalidSpecError("give either upstream, or model_url and api_key; not both")


def refuse_credentials(env: Mapping[str, str], agent: str) -> None:
    """Refuse a sandbox's environment that holds a credential.

    Args:
        env: The spec's `env`.
        agent: The name of the agent's class, for the message.

    Raises:
        AgentError: It holds one; the message has the name alone.
    """
    for name in sorted(CREDENTIALS & env.keys()):
        raise AgentError(
            f"The sandbox's env holds {name}, which everything in it could read. Give the "
            f"key to the agent instead: {agent}(api_key=...); it stays on this machine."
        )


def upstream_for(
    env: Mapping[str, str], *, model_url: str | None = None, api_key: str | None = None
) -> Upstream:
    """The service that the CLI would use on this machine, with its credential.

    Without `model_url` that is what `env`, or else the environment, says:
    `CLAUDE_CODE_USE_BEDROCK`, `CLAUDE_CODE_USE_VERTEX`, `CLAUDE_CODE_USE_FOUNDRY`, or
    `ANTHROPIC_BASE_URL` with `ANTHROPIC_API_KEY` or `ANTHROPIC_AUTH_TOKEN`. The
    environment's key is never sent to an explicit `model_url`.

    Args:
        env: `ClaudeAgentOptions.env`.
        model_url: The base URL of a Messages API.
        api_key: The key for it.

    Raises:
        AuthenticationError: There is no key, and the address is one that needs it.
        InvalidSpecError: The address is not a URL.
        UnsupportedError: The variables ask for a way to the model that is not there yet.
    """
    from sandboxkit.gateway.model.anthropic import Anthropic
    from sandboxkit.gateway.model.bedrock import Bedrock
    from sandboxkit.gateway.model.foundry import Foundry
    from sandboxkit.gateway.model.vertex import Vertex

    found = dict(env) if model_url is not None else {**os.environ, **env}
    for name in _NOT_YET:
        if _is_set(found, name):
            raise UnsupportedError(
                f"{name} is set, and this way to the model is not supported yet: it would take "
                "a credential into the sandbox. Use an API key: api_key=..."
            )
    upstream: Upstream
    if model_url is None and _is_set(found, "CLAUDE_CODE_USE_BEDROCK"):
        upstream = Bedrock(
            region=found.get("AWS_REGION"),
            profile=found.get("AWS_PROFILE"),
            api_key=found.get("AWS_BEARER_TOKEN_BEDROCK"),
            base_url=found.get("ANTHROPIC_BEDROCK_BASE_URL"),
        )
    elif model_url is None and _is_set(found, "CLAUDE_CODE_USE_VERTEX"):
        upstream = Vertex(
            project=found.get("ANTHROPIC_VERTEX_PROJECT_ID"),
            region=found.get("CLOUD_ML_REGION"),
            base_url=found.get("ANTHROPIC_VERTEX_BASE_URL"),
        )
    elif model_url is None and _is_set(found, "CLAUDE_CODE_USE_FOUNDRY"):
        token = found.get("ANTHROPIC_FOUNDRY_AUTH_TOKEN")
        base = found.get("ANTHROPIC_FOUNDRY_BASE_URL")
        upstream = Foundry(
            resource=None if base else found.get("ANTHROPIC_FOUNDRY_RESOURCE"),
            base_url=base,
            api_key=None if token else found.get("ANTHROPIC_FOUNDRY_API_KEY"),
            token_provider=partial(str, token) if token else None,
        )
    else:
        key = api_key or found.get("ANTHROPIC_API_KEY")
        token = None if key else found.get("ANTHROPIC_AUTH_TOKEN")
        url = model_url or found.get("ANTHROPIC_BASE_URL")
        upstream = Anthropic(api_key=key, auth_token=token, base_url=url)
    upstream.check()
    return upstream


def _is_set(found: Mapping[str, str], name: str) -> bool:
    return found.get(name, "").lower() not in {"", "0", "false"}
