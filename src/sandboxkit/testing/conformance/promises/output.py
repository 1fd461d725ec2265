"""What a command writes, is given on stdin, and answers: bytes, exactly."""

from __future__ import annotations

import resource
import sys

import anyio
import pytest

from sandboxkit.errors import CommandFailedError
from sandboxkit.sandbox import Sandbox
from sandboxkit.testing.conformance.inside import program, until
from sandboxkit.testing.conformance.promise import promise

_MIB = 1024 * 1024


@promise
@pytest.mark.parametrize("code", [0, 1, 2, 125, 126, 127, 128, 129, 130, 137, 143, 255])
async def test_an_exit_code_is_a_plain_result(sandbox: Sandbox, code: int) -> None:
    """Every exit code comes back as it is; none is taken for a failure of the sandbox."""
    result = await sandbox.sh(f"echo out; exit {code}")
    assert (result.exit_code, result.stdout) == (code, b"out\n")
    assert (result.timed_out, result.oom_killed, result.truncated) == (False, False, False)


@promise
@pytest.mark.parametrize("number", [1, 2, 6, 9, 11, 13, 15])
async def test_death_by_a_signal_is_its_negative_number(sandbox: Sandbox, number: int) -> None:
    """A signal that a command dies of by itself is told, and is not a time-out."""
    result = await sandbox.sh(f"ulimit -c 0; kill -{number} $$", timeout_s=60)
    assert (result.exit_code, result.timed_out, result.oom_killed) == (-number, False, False)


@promise
async def test_check_raises_with_the_whole_result(sandbox: Sandbox) -> None:
    """With `check`, a failure raises, and the error holds what the command said."""
    with pytest.raises(CommandFailedError, match="exit code 3: no way") as caught:
        await sandbox.sh("echo partial; echo no way >&2; exit 3", check=True)
    assert caught.value.result.stdout == b"partial\n"


@promise
async def test_sh_runs_a_script_of_the_shell(sandbox: Sandbox) -> None:
    """`sh` is the form in which pipes and expansions work."""
    assert (await sandbox.sh("echo a b | tr ab xy; echo $((1 + 1))")).text == "x y\n2\n"


@promise
async def test_output_is_exact_bytes(sandbox: Sandbox) -> None:
    """Every byte value arrives; text that is not UTF-8 is replaced only in `text`."""
    script = "import sys; sys.stdout.buffer.write(bytes(range(256)) * 3)"
    result = await sandbox.exec(program(script))
    assert result.stdout == bytes(range(256)) * 3
    assert "\ufffd" in result.text


@promise
@pytest.mark.parametrize("said", ["no newline", "a\r\nb\r\n", "\x1b[31mred\x07\n", "é\n\n", ""])
async def test_output_is_not_tidied(sandbox: Sandbox, said: str) -> None:
    """Line ends, control characters and a missing last newline stay as they were."""
    result = await sandbox.exec(["printf", "%s", said])
    assert result.stdout == said.encode()


@promise
async def test_stdout_and_stderr_are_apart(sandbox: Sandbox) -> None:
    """What was written to one stream never shows in the other."""
    result = await sandbox.sh("for i in 1 2 3; do echo out $i; echo err $i >&2; done")
    assert result.stdout == b"out 1\nout 2\nout 3\n"
    assert result.stderr == b"err 1\nerr 2\nerr 3\n"


@promise
async def test_a_megabyte_on_both_streams_is_no_deadlock(sandbox: Sandbox) -> None:
    """A program may fill both streams in any order."""
    script = """
        import os
        for fd in (2, 1, 2, 1):
            view = memoryview(bytes([65 + fd]) * (1 << 20))
            while view:
                view = view[os.write(fd, view):]
    """
    result = await sandbox.exec(program(script))
    assert (result.stdout, result.stderr) == (b"B" * 2 * _MIB, b"C" * 2 * _MIB)


@promise
async def test_stdin_is_exact_and_ends(sandbox: Sandbox) -> None:
    """A command reads the bytes it was given, and then the end of its input."""
    data = bytes(range(256)) * 1000
    assert (await sandbox.exec(["cat"], stdin=data)).stdout == data
    assert (await sandbox.exec(["cat"], stdin=b"")).stdout == b""


@promise
async def test_stdin_of_ten_megabytes_comes_back_whole(sandbox: Sandbox) -> None:
    """Input and output of any size cross at the same time."""
    data = b"".join(number.to_bytes(4, "big") for number in range(2_500_000))
    result = await sandbox.exec(["cat"], stdin=data, max_output_bytes=4 * len(data))
    assert result.stdout == data
    assert not result.truncated


@promise
async def test_without_stdin_the_input_is_empty(sandbox: Sandbox) -> None:
    """A command that reads its input without being given one reads the end at once."""
    with anyio.fail_after(20):
        assert (await sandbox.exec(["cat"])).stdout == b""


@promise
async def test_a_program_need_not_read_its_stdin(sandbox: Sandbox) -> None:
    """Input that nobody reads is dropped: no broken pipe, and the exit code is told."""
    data = b"x" * 10 * _MIB
    assert (await sandbox.sh("exit 7", stdin=data)).exit_code == 7
    assert (await sandbox.exec(["head", "-c", "5"], stdin=data)).stdout == b"xxxxx"


@promise
async def test_too_much_output_keeps_the_head_and_the_tail(sandbox: Sandbox) -> None:
    """Over the limit, the first and the last half are kept, and `truncated` says so."""
    result = await sandbox.exec(["seq", "100000"], max_output_bytes=1000)
    assert result.truncated
    assert result.stdout.startswith(b"1\n2\n3\n")
    assert result.stdout.endswith(b"99999\n100000\n")
    assert 900 <= len(result.stdout) <= 1000


@promise
async def test_output_at_the_limit_is_whole(sandbox: Sandbox) -> None:
    """Exactly as much as the limit is not truncated."""
    result = await sandbox.exec(["printf", "%s", "x" * 1001], max_output_bytes=1001)
    assert (len(result.stdout), result.truncated) == (1001, False)


@promise
async def test_a_flood_costs_bounded_memory(sandbox: Sandbox, flood_bytes: int) -> None:
    """However much a command writes, this host keeps no more than the limit."""
    unit = 1 if sys.platform == "darwin" else 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    result = await sandbox.sh(
        f"echo first; head -c {flood_bytes} /dev/zero; echo last", max_output_bytes=_MIB
    )
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit - before
    assert (result.exit_code, result.truncated) == (0, True)
    assert result.stdout.startswith(b"first\n")
    assert result.stdout.endswith(b"last\n")
    assert len(result.stdout) <= _MIB
    assert grown < 64 * _MIB


@promise
async def test_a_background_child_does_not_hold_up_the_result(sandbox: Sandbox) -> None:
    """The result comes when the command ends, not when the last holder of a pipe does."""
    with anyio.fail_after(20):
        result = await sandbox.sh("sleep 97 & echo hi")
    assert (result.exit_code, result.stdout) == (0, b"hi\n")
    assert result.truncated, "output may be missing, and nothing said so"
    assert not result.timed_out


@promise
async def test_what_a_command_left_in_the_background_goes_on(sandbox: Sandbox, folder: str) -> None:
    """A server started by a command lives on, and can still write to the old streams."""
    script = "(i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done; touch done) &"
    result = await sandbox.sh(f"cd {folder}; {script}")
    assert result.exit_code == 0
    await until(lambda: sandbox.files.exists(f"{folder}/done"))
