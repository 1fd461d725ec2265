"""`ClaudeAgentOptions` for a CLI on another machine: host paths are brought over or refused.

| option | what it means here |
|---|---|
| `cwd`, `add_dirs`, `cli_path` | paths in the sandbox |
| `settings`, `mcp_servers`, `system_prompt` as files, `plugins` | on the host; brought over |
| `user` | a user of the sandbox |
| `sandbox` | refused when enabled: the CLI's own sandbox cannot run inside this one |
| paths in `extra_args`, in commands of MCP servers, in `env` | paths in the sandbox |
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

import anyio

from sandboxkit.errors import InvalidSpecError, PathNotFoundError, UnsupportedError

if TYPE_CHECKING:
    from claude_agent_sdk import ClaudeAgentOptions, SdkPluginConfig

MAX_CONFIG_BYTES: Final = 16 * 1024 * 1024
"""The most that is read of one configuration file of the host."""

_WEB_TOOLS = ("WebSearch", "WebFetch")

Upload = Callable[[str, bytes], Awaitable[str]]
"""Puts content under a name into the agent's directory; gives the path in the sandbox."""

UploadTree = Callable[[str, Path], Awaitable[str]]
"""Likewise for a directory of the host."""


def check(options: ClaudeAgentOptions) -> None:
    """Refuse what cannot be meant, before anything is started.

    Raises:
        InvalidSpecError: A path that must be one of the sandbox is none.
        UnsupportedError: The CLI's own sandbox is asked for.
    """
    paths: list[tuple[str, object]] = [("cwd", options.cwd), ("cli_path", options.cli_path)]
    paths += [("add_dirs", path) for path in options.add_dirs]
    for name, path in paths:
        if path is not None and not PurePosixPath(str(path)).is_absolute():
            raise InvalidSpecError(
                f"ClaudeAgentOptions.{name}: {str(path)!r} must be an absolute path in the sandbox"
            )
    if options.sandbox and options.sandbox.get("enabled"):
        raise UnsupportedError(
            "ClaudeAgentOptions.sandbox: Claude Code's own sandbox cannot run inside this one "
            "(it would refuse every command). Leave it out: the sandbox around it is the wall."
        )


def without_web(options: ClaudeAgentOptions) -> ClaudeAgentOptions:
    """The options for a sandbox that may not reach the web.

    The web tools are taken from the model: search happens at the model's provider, so
    the network policy would not hold it.
    """
    withheld = [tool for tool in _WEB_TOOLS if tool not in options.disallowed_tools]
    return replace(options, disallowed_tools=[*options.disallowed_tools, *withheld])


async def bring_over(
    options: ClaudeAgentOptions, upload: Upload, upload_tree: UploadTree
) -> ClaudeAgentOptions:
    """Options whose files are in the sandbox.

    Raises:
        PathNotFoundError: A file that an option names is not on this machine.
    """
    settings, servers, prompt = options.settings, options.mcp_servers, options.system_prompt
    if settings is not None and not settings.strip().startswith("{"):
        # Inline, because the SDK reads the file itself when `sandbox` is set too.
        settings = (await _read("settings", settings)).decode("utf-8-sig")
    if isinstance(servers, str | Path) and not str(servers).strip().startswith("{"):
        servers = await upload("mcp.json", await _read("mcp_servers", servers))
    if isinstance(prompt, dict) and prompt["type"] == "file":
        content = await _read("system_prompt", prompt["path"])
        prompt = {**prompt, "path": await upload("system-prompt", content)}
    plugins: list[SdkPluginConfig] = []
    for number, plugin in enumerate(options.plugins):
        directory = anyio.Path(plugin["path"])
        if not await directory.is_dir():
            raise _missing("plugins", directory)
        name = f"plugin-{number}/{directory.name}"
        plugins.append({**plugin, "path": await upload_tree(name, Path(directory))})
    return replace(
        options, settings=settings, mcp_servers=servers, system_prompt=prompt, plugins=plugins
    )


async def _read(option: str, path: str | Path) -> bytes:
    file = anyio.Path(path)
    if not await file.is_file():
        raise _missing(option, file)
    if (await file.stat()).st_size > MAX_CONFIG_BYTES:
        raise InvalidSpecError(
            f"ClaudeAgentOptions.{option}: {str(path)!r} is larger than {MAX_CONFIG_BYTES} bytes"
        )
    return await file.read_bytes()


def _missing(option: str, path: object) -> PathNotFoundError:
    return PathNotFoundError(
        f"ClaudeAgentOptions.{option}: {str(path)!r} is not on this machine; what this option "
        "names is taken from here and brought into the sandbox"
    )
