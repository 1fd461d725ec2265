"""What of the CLI's command line is for no other user's eyes: Linux shows it to all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sandboxkit.agents.claude_code.options import Upload

# Each with the flag that takes a file instead, and the file's name.
_IN_A_FILE: Final[Mapping[str, tuple[str, str]]] = {
    "--append-system-prompt": ("--append-system-prompt-file", "append-system-prompt"),
    "--mcp-config": ("--mcp-config", "mcp-config.json"),
    "--settings": ("--settings", "given-settings.json"),
    "--system-prompt": ("--system-prompt-file", "system-prompt"),
}
_JSON: Final = frozenset({"--mcp-config", "--settings"})  # or a path already


async def unseen(argv: Sequence[str], upload: Upload) -> list[str]:
    """The same command line, with prompts, settings and MCP servers in files of the agent's own.

    Args:
        argv: What the SDK would start.
        upload: Puts a file where the agent's user alone can read it; gives its path.
    """
    found: list[str] = []
    flag = ""
    for argument in argv:
        into = _IN_A_FILE.get(flag)
        flag = argument
        plain = into is None or not argument or (found[-1] in _JSON and argument[:1] != "{")
        if plain or into is None:
            found.append(argument)
        else:
            found[-1:] = [into[0], await upload(into[1], argument.encode())]
            flag = ""
    return found
