"""What an agent signs in with: the variables that hold it, and the values themselves."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Final

CREDENTIALS: Final = frozenset(
    {
        "ANTHROPIC_API_KEY",
        "ANTHROPIC_AUTH_TOKEN",
        "ANTHROPIC_FOUNDRY_API_KEY",
        "ANTHROPIC_FOUNDRY_AUTH_TOKEN",
        "AWS_ACCESS_KEY_ID",
        "AWS_BEARER_TOKEN_BEDROCK",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AZURE_CLIENT_SECRET",
        "CLAUDE_CODE_OAUTH_TOKEN",
        "GOOGLE_APPLICATION_CREDENTIALS",
    }
)
"""Variables that never enter a sandbox."""


def hidden_of(upstream: object, api_key: str | None) -> dict[str, str]:
    """What a service is signed in with, as far as it is a value, so that no log shows it."""
    found = {} if api_key is None else {"api_key": api_key}
    if is_dataclass(upstream):
        for field in fields(upstream):  # what `repr` does not show
            value: object = getattr(upstream, field.name)
            if not field.repr and isinstance(value, str):
                found[field.name] = value
    return found
