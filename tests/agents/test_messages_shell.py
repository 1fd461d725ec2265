"""The shell of the messages agent, in a real sandbox."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from sandboxkit.agents.messages.tools.bash import OUTPUT_LIMIT, Bash
from sandboxkit.agents.messages.tools.editor import Editor
from sandboxkit.agents.messages.tools.tool import ToolFailed
from sandboxkit.errors import SandboxError
from sandboxkit.sandbox import Sandbox


@pytest.fixture
async def sandbox(engine: str) -> AsyncIterator[Sandbox]:
    async with Sandbox.create("docker") as sandbox:
        yield sandbox


@pytest.fixture
async def bash(sandbox: Sandbox) -> AsyncIterator[Bash]:
    tool = Bash(sandbox, 60)
    yield tool
    await tool.aclose()


async def said(tool: Bash, command: str) -> tuple[str, bool]:
    output = await tool.run({"command": command})
    return output.text, output.is_error


async def test_the_shell_stays(bash: Bash) -> None:
    assert await said(bash, "cd /tmp; x='a  b'; export Y=2; f() { echo f$1; }") == (
        "[No output]",
        False,
    )
    assert await said(bash, "pwd; echo \"$x\"; sh -c 'echo $Y'; f 3") == (
        "/tmp\na  b\n2\nf3\n",
        False,
    )
    assert (await bash.run({"restart": True})).text == "The shell has been restarted."
    assert await said(bash, 'pwd; echo "[$x]"') == ("/work\n[]\n", False)


@pytest.mark.parametrize(
    ("command", "text", "is_error"),
    [
        ("printf 'no end'", "no end", False),
        ("printf 'no end'; false", "no end\n[Exit code 1]", True),
        ("printf '\\n\\n a \\n\\n'", "\n\n a \n\n", False),
        ("echo out; echo err >&2; echo out", "out\nerr\nout\n", False),
        ("sh -c 'kill -9 $$'", "Killed", True),
        ("cat; echo none", "none\n", False),  # its input is empty
        ("printf '\\377\\302'", "\ufffd\ufffd", False),
        ("exec >/dev/null 2>&1; echo no", "[No output]", False),
        ("set -x; echo yes", "++ echo yes\nyes\n", False),
        ("no-such-program", "no-such-program: command not found", True),
        ("cat <<'END'\n'\"$x\nEND", "'\"$x\n", False),
        ("# nothing", "[No output]", False),
        ("sandboxkit() { :; }; printf() { :; }; true", "[No output]", False),
    ],
)
async def test_output_and_exit_state(bash: Bash, command: str, text: str, is_error: bool) -> None:
    got, failed = await said(bash, command)
    assert failed is is_error
    assert text in got if is_error else got == text
    assert (await said(bash, "echo and on"))[0].endswith("and on\n")


async def test_a_command_that_is_none(bash: Bash) -> None:
    text, failed = await said(bash, "echo 'open")
    assert failed
    assert "unexpected EOF" in text
    assert await said(bash, "echo on") == ("on\n", False)
    for arguments in ({}, {"command": " "}, {"command": 3}, {"command": "a\0b"}):
        with pytest.raises(ToolFailed, match=r"missing|NUL"):
            await bash.run(arguments)


async def test_a_shell_that_leaves_is_replaced(bash: Bash) -> None:
    text, failed = await said(bash, "x=1; sleep 1000 & echo before; exit 3")
    assert failed
    assert text.startswith("before\n[The shell has ended with exit code 3. ")
    assert await said(bash, 'echo "[$x]"; pgrep -x sleep') == ("[]\n[Exit code 1]", True)
    text, failed = await said(bash, "exit")
    assert not failed
    assert "ended with exit code 0" in text
    # It may also go between two calls.
    await said(bash, "(kill -9 $$) & wait")
    assert await said(bash, "echo there") == ("there\n", False)


async def test_a_time_out_keeps_what_was_said(sandbox: Sandbox) -> None:
    bash = Bash(sandbox, 1)
    text, failed = await said(bash, "echo before; sleep 1000; echo after")
    assert failed
    assert text.startswith("before\n[The command was ended after 1 s.")
    assert "in the background" in text
    assert (await sandbox.sh("pgrep -x sleep")).exit_code == 1
    assert await said(bash, "echo on") == ("on\n", False)
    await bash.aclose()


async def test_a_cancelled_command_is_ended(bash: Bash, sandbox: Sandbox) -> None:
    task = asyncio.ensure_future(bash.run({"command": "touch begun; sleep 1000"}))
    while not await sandbox.files.exists("begun"):
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await sandbox.sh("pgrep -x sleep")).exit_code == 1
    assert await said(bash, "echo on") == ("on\n", False)


async def test_long_output_keeps_its_ends(bash: Bash) -> None:
    text, _ = await said(
        bash, "echo first; head -c 5000000 /dev/zero | tr '\\0' x; echo last; exit 7"
    )
    assert text.startswith("first\nxxx")
    assert "xxxlast\n[The shell has ended with exit code 7." in text
    left_out = 5_000_000 + len("first\nlast\n") - OUTPUT_LIMIT
    assert f"\n[... {left_out} bytes of output left out ...]\n" in text
    assert len(text) < OUTPUT_LIMIT + 500


async def test_what_runs_in_the_background_is_not_held_up(bash: Bash, sandbox: Sandbox) -> None:
    """More than the channel holds, between two commands."""
    await said(bash, "(head -c 5000000 /dev/zero; touch through) &")
    while not await sandbox.files.exists("through"):
        await asyncio.sleep(0.01)
    assert (await said(bash, "echo on"))[0].endswith("on\n")


STEAL = "read -r line <&10; m=$(echo $line | grep -o 'sandboxkit-[0-9a-f]*:')"


@pytest.mark.parametrize("code", ["x\\n", "", "1234567890", "\\n", "-1\\n", "\\303\\262\\n"])
async def test_a_command_that_steals_the_mark_fools_itself_alone(
    sandbox: Sandbox, code: str
) -> None:
    """Bash has put its own input there meanwhile; what is read of it, the shell does not get."""
    bash = Bash(sandbox, 3)
    flood = "head -c 3000000 /dev/zero | tr '\\0' x"
    text, failed = await said(bash, f'{STEAL}; printf "${{m}}{code}"; {flood}')
    assert failed
    assert "ended after 3 s" in text
    assert "bytes of output left out" in text
    assert len(text) < OUTPUT_LIMIT + 500
    assert await said(bash, "echo on") == ("on\n", False)
    await bash.aclose()


async def test_a_shell_without_bash(sandbox: Sandbox) -> None:
    await sandbox.sh("mkdir few; for p in sh sleep cat; do ln -s $(command -v $p) few/; done")
    bash = Bash(_Poor(sandbox), 60)  # type: ignore[arg-type]
    assert await said(bash, "cd /tmp; x=1") == ("[No output]", False)
    assert await said(bash, "pwd; echo $x $BASH_VERSION") == ("/tmp\n1\n", False)
    text, failed = await said(bash, "echo 'open")
    assert failed
    assert "Unterminated" in text
    assert (await said(bash, "exit 4"))[1]
    await bash.aclose()


class _Poor:
    """A sandbox whose PATH has no bash."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    async def spawn(self, argv: list[str], **options: Any) -> object:
        return await self._sandbox.spawn(argv, env={"PATH": "/work/few"}, **options)


async def test_a_lost_sandbox_is_no_failure_of_the_tool(engine: str) -> None:
    async with Sandbox.create("docker") as sandbox:
        bash, editor = Bash(sandbox, 60), Editor(sandbox, "claude")
        await bash.run({"command": "true"})
        await sandbox.destroy()
        with pytest.raises(SandboxError):
            await bash.run({"command": "true"})
        with pytest.raises(SandboxError):
            await editor.run({"command": "view", "path": "/work"})
        await bash.aclose()
