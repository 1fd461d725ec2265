"""Which Claude models Amazon Bedrock has, and under which names.

The table is data with a date (`bedrock_models.json`). What it does not know passes, with a
warning; only a combination that it rules out is refused.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Final, Literal

from sandboxkit.errors import InvalidSpecError

log = logging.getLogger(__name__)

Endpoint = Literal["global", "regional"]

_ID: Final = re.compile(r"(?:(?P<profile>[a-z][a-z-]*)\.)?(?P<base>anthropic\.[\w.:-]+)")
_DATED: Final = re.compile(r"-\d{8}$")
_JAPAN: Final = frozenset({"ap-northeast-1", "ap-northeast-3"})


@dataclass(frozen=True, slots=True)
class BedrockModel:
    """One model.

    Attributes:
        id: Its id without a profile, such as `anthropic.claude-haiku-4-5-20251001-v1:0`.
        profiles: The inference profiles that have it: `global`, `us`, `eu`, `jp`, `apac`.
    """

    id: str
    profiles: frozenset[str]


@cache
def known_models() -> Mapping[str, BedrockModel]:
    """The table, by the name that the Anthropic API uses, without its date."""
    text = resources.files("sandboxkit.gateway.model").joinpath("bedrock_models.json")
    table = json.loads(text.read_text("utf-8"))
    return {
        name: BedrockModel(each["id"], frozenset(each["profiles"]))
        for name, each in table["models"].items()
    }


def bedrock_id(
    asked: str, *, region: str, endpoint: Endpoint, models: Mapping[str, BedrockModel]
) -> str:
    """The id to ask Bedrock for.

    Args:
        asked: A name of the Anthropic API (`claude-haiku-4-5`, with or without its date), or
            an id of Bedrock, with or without a profile.
        region: Such as `eu-central-1`.
        endpoint: `global` lets Bedrock choose where it runs; `regional` keeps it in the
            geography of the region, at a premium of 10 %.
        models: The table.

    Raises:
        InvalidSpecError: The table says that there is no such combination; the message
            says which there are.
    """
    match = _ID.fullmatch(asked)
    base = match["base"] if match else None
    name = _DATED.sub("", asked)
    model = models.get(name) or next((m for m in models.values() if m.id == base), None)
    if model is None:
        log.warning("the table of Bedrock's models does not know %s: it passes as it is", asked)
        return asked
    profiles = ["global"] if endpoint == "global" else geographies(region)
    for profile in profiles:
        if profile in model.profiles:
            return f"{profile}.{model.id}"
    there = ", ".join(f"{profile}.{model.id}" for profile in sorted(model.profiles))
    wanted = "global" if endpoint == "global" else f"regional ({region})"
    raise InvalidSpecError(
        f"Bedrock has no {wanted} endpoint for {model.id}. It has: {there}. Choose another "
        "model, or endpoint='regional' with a region where it is."
    )


def geographies(region: str) -> list[str]:
    """The profiles that keep data in the geography of a region, the nearest first."""
    area = region.partition("-")[0]
    if area == "ap":
        return ["jp", "apac"] if region in _JAPAN else ["apac"]
    return [area]
