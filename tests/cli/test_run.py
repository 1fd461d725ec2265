"""`sandboxkit run`, and that nothing from a sandbox reaches the terminal raw."""

from __future__ import annotations

from functools import partial

from anyio import to_thread

from sandboxkit.testing import ScriptedModel, call, fail, say
from sandboxkit.testing.scripted_model.steps import Step
from tests.cli.command import Cli

HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202etxt\rover"


def account(model: ScriptedModel) -> dict[str, str]:
    return {"ANTHROPIC_BASE_URL": model.url, "ANTHROPIC_API_KEY": "s3cret-of-the-host"}


async def test_a_prompt_with_files(cli: Cli) -> None:
    (cli.cwd / "project").mkdir()
    (cli.cwd / "project" / "input.txt").write_text("forty-two")
    model = ScriptedModel(
        [call("Bash", command="tr a-z A-Z < input.txt > output.txt; env"), say("It is done.")]
    )
    arguments = ["run", "Shout", "--upload", "project", "--download", "output.txt"]
    arguments += ["--output", "out", "--model", "claude-opus-4-5", "--max-turns", "5"]
    async with model:
        done = await to_thread.run_sync(partial(cli.run, *arguments, env=account(model)))

    assert (done.returncode, done.stdout) == (0, b"It is done.\n")  # the answer alone
    assert (cli.cwd / "out" / "output.txt").read_text() == "FORTY-TWO"
    shown = done.stderr.decode()
    assert "downloaded output.txt to out/output.txt" in shown
    assert "first token" in shown
    assert "s3cret" not in shown
    assert model.requests[0].last_text == "Shout"
    assert model.requests[0].model == "claude-opus-4-5"
    assert "s3cret" not in model.requests[1].tool_results[0].text


async def test_nothing_from_the_sandbox_reaches_the_terminal_raw(cli: Cli) -> None:
    octal = "".join(f"\\{byte:03o}" for byte in HOSTILE.encode())
    script: list[Step] = [
        [say(f"I say {HOSTILE}"), call("Read", file_path=f"{HOSTILE}/file")],
        call("Bash", command=f"printf '{octal}'"),
        say(f"Done {HOSTILE}"),
    ]
    raw = ["\x1b]", "\x07", "\x1b[2J", "\x9b", "\u202e"]

    async with ScriptedModel(script) as model:
        run = partial(cli.run, "run", "Go", env=account(model))
        piped = await to_thread.run_sync(run)
    shown = (piped.stdout + piped.stderr).decode()
    assert piped.returncode == 0
    assert not [mark for mark in [*raw, "\x1b", "\r"] if mark in shown]
    for line in ("I say ␛]0;owned␇␛[2J", "  Read ␛]0;owned␇␛[2J", "  │ ␛]0;owned␇␛[2J"):
        assert f"\n{line}" in shown

    async with ScriptedModel(script) as model:
        on_terminal = partial(cli.run_on_terminal, "run", "Go", env=account(model))
        code, got = await to_thread.run_sync(on_terminal)
    assert code == 0
    assert not [mark for mark in raw if mark in got.decode()]
    assert "␛]0;owned␇␛[2J".encode() in got


async def test_an_agent_that_fails(cli: Cli) -> None:
    async with ScriptedModel([fail(400, "no such thing \x1b[2J")] * 9) as model:
        done = await to_thread.run_sync(partial(cli.run, "run", "Go", env=account(model)))
    assert done.returncode == 1
    assert b"Error: the agent did not finish: " in done.stderr
    assert b"no such thing" in done.stderr
    assert b"\x1b" not in done.stderr


def test_without_a_key(cli: Cli) -> None:
    done = cli.run("run", "Go")
    assert done.returncode == 1
    assert b"Error: There is no key for the Anthropic API" in done.stderr


def test_what_is_not_there_cannot_be_uploaded(cli: Cli) -> None:
    done = cli.run("run", "Go", "--upload", "nowhere", env={"ANTHROPIC_API_KEY": "s3cret"})
    assert done.returncode == 1
    assert b"Error: --upload: there is nothing at 'nowhere'" in done.stderr
