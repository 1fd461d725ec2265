"""Where a request may be cut for the API's prompt cache.

The API takes four marks and looks back about 20 blocks from each. They stand behind what
changes never (the tools, the system prompt), and behind the newest message and the one that
was newest in the request before: so a turn with many calls still finds what was written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sandboxkit.agents.messages.tools.tool import Block


def marked(request: Mapping[str, Any], ttl: str) -> dict[str, Any]:
    """The request with its marks; what was given is not changed.

    Args:
        request: With `messages`, and perhaps `tools` and `system`, as lists.
        ttl: How long the API keeps it: `5m` or `1h`.
    """
    control = {"type": "ephemeral", "ttl": ttl}
    out = dict(request)
    for name in ("tools", "system"):
        if request.get(name):
            out[name] = _last_marked(request[name], control)
    messages: list[Block] = list(request["messages"])
    of_user = [index for index, message in enumerate(messages) if message["role"] == "user"]
    for index in of_user[-2:]:
        message = messages[index]
        messages[index] = {**message, "content": _last_marked(message["content"], control)}
    return {**out, "messages": messages}


def _last_marked(blocks: Sequence[Block], control: Mapping[str, str]) -> list[Block]:
    *before, last = blocks
    return [*before, {**last, "cache_control": dict(control)}]
