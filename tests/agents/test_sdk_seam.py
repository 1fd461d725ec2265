"""The private names of `claude-agent-sdk` that are used, each by its name.

When one of these fails with a new version of the SDK, look at what became of the name,
change `sandboxkit/agents/claude_code/sdk.py`, and let the tests of the transport say
whether the behaviour is still that of the SDK's own.
"""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import claude_agent_sdk
import pytest
from claude_agent_sdk import ClaudeAgentOptions, InMemorySessionStore, PermissionResultAllow

from sandboxkit.agents.claude_code import sdk

NAMES = {
    "claude_agent_sdk._cli_version:__cli_version__": None,
    "claude_agent_sdk.types:_configure_can_use_tool": ["options"],
    "claude_agent_sdk._internal.message_parser:parse_message": ["data"],
    "claude_agent_sdk._internal.query:Query.receive_messages": ["self"],
    "claude_agent_sdk._internal.sessions:_get_projects_dir": ["env_override"],
    "claude_agent_sdk._internal.sessions:_sanitize_path": ["name"],
    "claude_agent_sdk._internal.sessions:_split_agent_metadata": ["entries"],
    "claude_agent_sdk._internal.transport.subprocess_cli:SubprocessCLITransport": [
        "prompt",
        "options",
    ],
    "claude_agent_sdk._internal.transport.subprocess_cli:SubprocessCLITransport._build_command": [
        "self"
    ],
}


@pytest.mark.parametrize("name", NAMES)
def test_the_name_is_there_with_these_parameters(name: str) -> None:
    module, _, path = name.partition(":")
    found: Any = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part, None)
        assert found is not None, f"claude-agent-sdk {sdk.SDK_VERSION} has no {name} any more"
    if NAMES[name] is not None:
        assert list(inspect.signature(found).parameters) == NAMES[name]


def test_the_seam_is_the_only_one() -> None:
    private = re.compile(r"claude_agent_sdk\.(_|\w+\._)|from claude_agent_sdk\S* import .*\b_\w+")
    sources = Path(str(sdk.__file__)).parent
    using = [source.name for source in sources.glob("*.py") if private.search(source.read_text())]
    assert using == ["sdk.py"]


async def allow(*_: Any) -> PermissionResultAllow:
    return PermissionResultAllow()


def test_the_command_line_has_the_options() -> None:
    options = ClaudeAgentOptions(
        model="a-model",
        max_turns=3,
        resume="x",
        can_use_tool=allow,
        session_store=InMemorySessionStore(),
        output_format={"type": "json_schema", "schema": {"type": "object"}},
        extra_args={"debug": None},
    )
    command = sdk.build_command(options, "/opt/the/cli")

    assert command[0] == "/opt/the/cli"
    for flags in (
        ["--model", "a-model"],
        ["--max-turns", "3"],
        ["--resume=x"],
        ["--permission-prompt-tool", "stdio"],
        ["--session-mirror"],
        ["--json-schema", '{"type": "object"}'],
        ["--debug"],
        ["--output-format", "stream-json"],
        ["--input-format", "stream-json"],
    ):
        assert " ".join(flags) in " ".join(command)


def test_contradictions_are_the_sdks() -> None:
    options = ClaudeAgentOptions(can_use_tool=allow, permission_prompt_tool_name="mine")
    with pytest.raises(ValueError, match="can_use_tool"):
        sdk.build_command(options, "/cli")


def test_the_names_of_the_clis_files() -> None:
    assert sdk.project_key("/work/my.app") == "-work-my-app"
    assert sdk.projects_dir({"CLAUDE_CONFIG_DIR": "/c"}) == "/c/projects"
    lines: Any = [{"type": "agent_metadata", "a": 1}, {"type": "user"}]
    assert sdk.split_agent_metadata(lines) == ({"type": "agent_metadata", "a": 1}, lines[1:])


def test_the_version_is_known() -> None:
    assert claude_agent_sdk.__version__ == sdk.SDK_VERSION
    assert re.fullmatch(r"\d+\.\d+\.\d+", sdk.BUNDLED_CLI_VERSION)
