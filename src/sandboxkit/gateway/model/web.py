"""Server-side tools that reach the web: past every rule of the sandbox's network."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final, cast

from sandboxkit.gateway.model.server import RefusedError

# Names of docs.anthropic.com, "Tool use: server tools", each with a date behind it.
_REACHING: Final = re.compile(r"(web_search|web_fetch|code_execution)_\d+")
_WHY: Final = (
    "Server-side tools that reach the web (web search, web fetch, code execution, remote MCP "
    "servers) are withheld: the network policy of this sandbox does not allow the web. Do "
    "without them."
)


def without_web(raw: bytes, body: Mapping[str, Any]) -> bytes:
    """The request without such tools; the very bytes that came where there are none.

    Raises:
        RefusedError: It asks for nothing but them.
    """
    tools = body.get("tools")
    listed = cast("list[object]", tools) if isinstance(tools, list) else []
    kept = [tool for tool in listed if not _reaches(tool)]
    if len(kept) == len(listed) and not body.get("mcp_servers"):
        return raw
    choice = body.get("tool_choice")
    chosen = cast("dict[str, Any]", choice).get("name") if isinstance(choice, dict) else None
    names = {cast("dict[str, Any]", tool).get("name") for tool in kept if isinstance(tool, dict)}
    if not kept or (chosen is not None and chosen not in names):
        raise RefusedError(HTTPStatus.FORBIDDEN, "permission_error", _WHY)
    changed = {name: value for name, value in body.items() if name != "mcp_servers"}
    return json.dumps({**changed, "tools": kept}).encode()


def _reaches(tool: object) -> bool:
    kind = cast("dict[str, Any]", tool).get("type") if isinstance(tool, dict) else None
    return isinstance(kind, str) and (
        _REACHING.fullmatch(kind) is not None or kind == "mcp_toolset"
    )
