"""The agent's own place in the sandbox: its configuration directory, and what is put there.

Each agent has one `CLAUDE_CONFIG_DIR`: agents that shared one could delete each other's
session records (anthropics/claude-code#74566). They all lie under one base, so that an
agent that resumes a conversation finds the directory of the one that began it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sandboxkit.errors import AgentError, InvalidSpecError

if TYPE_CHECKING:
    from claude_agent_sdk import ClaudeAgentOptions

    from sandboxkit.sandbox import Sandbox

_DEADLINE_S = 30.0

# Arguments: a given directory or "", the session to resume or "", "continue" or "", the CLI,
# and the directories that must exist. Answers in lines: directory, cwd, whether the CLI is there.
_FIND: Final = r"""
set -u
config=$1 resume=$2 continue=$3 cli=$4
shift 4
cwd=$(pwd -P) || exit 3
home=${HOME:-/tmp}
[ -d "$home" ] && [ -w "$home" ] || home=/tmp
base=$home/.sandboxkit/claude-code
if [ -z "$config" ] && [ -n "$resume" ]; then
    for file in "$base"/*/projects/*/"$resume".jsonl; do
        [ -f "$file" ] && config=${file%/projects/*}
    done
fi
if [ -z "$config" ] && [ -n "$continue" ]; then
    key=$(printf %s "$cwd" | sed 's/[^A-Za-z0-9]/-/g')
    file=$(ls -t "$base"/*/projects/"$key"/*.jsonl 2>/dev/null | head -n 1)
    config=${file%/projects/*}
fi
if [ -z "$config" ]; then
    mkdir -p "$base" && config=$(mktemp -d "$base/XXXXXXXX") || exit 4
fi
mkdir -p -m 700 "$config" || exit 4
for directory in "$@"; do
    [ -d "$directory" ] || { printf '%s' "$directory" >&2; exit 5; }
done
[ -x "$cli" ] && found=yes || found=no
printf '%s\n' "$config" "$cwd" "$found"
"""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an agent lives in a sandbox.

    Attributes:
        config_dir: Its `CLAUDE_CONFIG_DIR`.
        cwd: Its working directory, without symbolic links.
        has_cli: Whether the CLI is where it was looked for.
    """

    sandbox: Sandbox
    user: str | None
    config_dir: str
    cwd: str
    has_cli: bool

    async def upload(self, name: str, data: bytes) -> str:
        """Put a file under the configuration directory, for the agent's user alone.

        Returns:
            Its path in the sandbox.
        """
        path = f"{self.config_dir}/{name}"
        script = 'umask 077; mkdir -p "${1%/*}" && cat > "$1"'
        argv = ["sh", "-c", script, "sh", path]
        result = await self.sandbox.exec(
            argv, stdin=data, user=self.user, cwd="/", timeout_s=_DEADLINE_S
        )
        result.check()
        return path

    async def upload_tree(self, name: str, local: Path) -> str:
        """Likewise for a directory of the host.

        Returns:
            Its path in the sandbox.
        """
        path = f"{self.config_dir}/{name}"
        await self.sandbox.files.upload(local, path)
        return path


async def find_place(sandbox: Sandbox, options: ClaudeAgentOptions, cli: str) -> Place:
    """Find or make the agent's place, and check what must be in the sandbox.

    Raises:
        InvalidSpecError: A directory that an option names does not exist there.
        AgentError: There is no directory that the agent's user can write to.
        ExecStartError: The working directory or the user does not exist there.
    """
    argv = [
        *("sh", "-c", _FIND, "sh"),
        options.env.get("CLAUDE_CONFIG_DIR", ""),
        options.resume or "",
        "continue" if options.continue_conversation else "",
        cli,
        *(str(directory) for directory in options.add_dirs),
    ]
    cwd = None if options.cwd is None else str(options.cwd)
    result = await sandbox.exec(argv, cwd=cwd, user=options.user, timeout_s=_DEADLINE_S)
    said = result.stderr.decode("utf-8", "replace").strip()
    if result.exit_code == 5:
        raise InvalidSpecError(
            f"ClaudeAgentOptions.add_dirs: {said!r} does not exist in the sandbox; it means a "
            "directory there. Bring one over with sandbox.files.upload()."
        )
    if result.exit_code != 0 or result.timed_out:
        raise AgentError(f"There is no place for the agent's files in the sandbox: {said}")
    config_dir, real_cwd, found = result.text.splitlines()
    return Place(sandbox, options.user, config_dir, real_cwd, found == "yes")
