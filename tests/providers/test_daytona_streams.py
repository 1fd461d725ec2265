"""What crosses Daytona's sessions: the shell that starts a program, and the log that it writes."""

from __future__ import annotations

import random
import subprocess
from itertools import pairwise

import pytest

from sandboxkit.errors import UnsupportedError
from sandboxkit.providers.base import Command
from sandboxkit.providers.daytona.command import Script, script
from sandboxkit.providers.daytona.log import LogReader

OUT, ERR = b"\1\1\1", b"\2\2\2"
END = b"\x1eend "


def parts(log: bytes, at: list[int]) -> list[bytes]:
    return [log[start:end] for start, end in pairwise([0, *at, len(log)])]


def read(pieces: list[bytes]) -> tuple[bytes, bytes, LogReader]:
    reader = LogReader(END)
    said = {1: b"", 2: b""}
    for piece in pieces:
        for output in reader.feed(piece):
            said[output.fd] += output.data
    return said[1], said[2], reader


# Two streams, an empty line, marks and separators inside of lines, a last line without an end.
LOG = (
    OUT + b"first\n" + ERR + b"aside\n" + OUT + b"\n" + OUT + b"a\1\1b \x1e not the end\n"
    + ERR + b"\xc3\xa9\2x\n" + OUT + b"no newline" + END + b"7\n" + ERR + END + b"7\n"
)  # fmt: skip


def test_a_log_is_read_the_same_however_it_is_cut() -> None:
    whole = read([LOG])
    assert whole[0] == b"first\n\na\1\1b \x1e not the end\nno newline"
    assert whole[1] == b"aside\n\xc3\xa9\2x\n"
    assert whole[2].finished
    assert whole[2].exit_code == 7
    for at in range(1, len(LOG)):
        assert read(parts(LOG, [at]))[:2] == whole[:2], at
    dice = random.Random(7)
    for _ in range(200):
        cuts = sorted(dice.sample(range(1, len(LOG)), 12))
        assert read(parts(LOG, cuts))[:2] == whole[:2], cuts
    assert read([bytes([byte]) for byte in LOG])[:2] == whole[:2]


def test_a_line_that_the_other_stream_has_torn_is_put_together() -> None:
    log = OUT + b"long " + ERR + b"aside\n" + b"line\n" + OUT + b"next\n"
    for at in range(1, len(log)):
        assert read(parts(log, [at]))[:2] == (b"long line\nnext\n", b"aside\n"), at


def test_what_comes_after_the_end_is_not_the_programs() -> None:
    stdout, _, reader = read([OUT + b"mine\n", OUT + END + b"0\n", OUT + b"its child's\n"])
    assert stdout == b"mine\n"
    assert reader.exit_code == 0
    assert not reader.finished


def run(made: Script, *lines: str, shell: str = "/bin/sh") -> tuple[bytes, int, list[str]]:
    """What the program writes, its exit code, and the lines of all that `ps` would show."""
    sent = made.first + "".join(lines) + (made.eof or "")
    done = subprocess.run(
        [shell, "-c", made.text], input=sent.encode(), capture_output=True, timeout=30, check=False
    )
    stdout, found, code = done.stdout.partition(made.end)
    assert found
    assert int(code) == done.returncode
    assert done.stderr.endswith(made.end + code)
    return stdout, done.returncode, made.text.splitlines()


@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash"])
def test_arguments_environment_and_directory_arrive_verbatim(shell: str) -> None:
    words = ["a b", "", "$HOME", "'\"", "*", "; echo no", "-x", "a\nb", "é", "{word}", "%s\\n"]
    environment = {"KIT": "x\ny='$HOME' `id` \\", "s": "s", "l": "l", "EMPTY": ""}
    show = 'printf "%s|" "$@" "$KIT" "$s" "$l" "${EMPTY-unset}"; pwd'
    made = script(Command(("sh", "-c", show, "sh", *words), environment, "/usr"), ends=True)
    stdout, code, _ = run(made, shell=shell)
    assert stdout.decode() == "|".join([*words, *environment.values()]) + "|/usr\n"
    assert code == 0


def test_a_secret_is_in_no_command_line() -> None:
    made = script(Command(("env",), {"TOKEN": "very-secret"}), ends=True)
    stdout, _, text = run(made)
    assert b"TOKEN=very-secret\n" in stdout
    assert "very-secret" not in "".join(text)


@pytest.mark.parametrize("sed", [True, False])
def test_input_ends_at_its_end_and_nowhere_else(
    sed: bool,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    if not sed:  # as on an image whose sed cannot do without a buffer
        broken = tmp_path_factory.mktemp("bin") / "sed"
        broken.write_text("#!/bin/sh\nexit 1\n")
        broken.chmod(0o755)
        monkeypatch.setenv("PATH", f"{broken.parent}:/usr/bin:/bin")
    made = script(Command(("cat",)), ends=True)
    assert made.eof is not None
    lines = ["one\n", "\n", "  two\\n \n", f" {made.eof}", f"x{made.eof}", "-n\n", "-e\n"]
    assert run(made, *lines)[0].decode() == "".join(lines)


def test_input_ends_though_the_service_holds_it_open() -> None:
    made = script(Command(("cat",)), ends=True)
    assert made.eof is not None
    with subprocess.Popen(
        ["/bin/sh", "-c", made.text], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=-1
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"one\n{made.eof}".encode())
        process.stdin.flush()
        assert process.wait(timeout=30) == 0
        assert process.stdout.read().startswith(b"one\n" + made.end)


@pytest.mark.parametrize("code", [0, 1, 126, 255])
def test_the_exit_code_is_the_programs(code: int) -> None:
    assert run(script(Command(("sh", "-c", f"exit {code}")), ends=True))[1] == code


def test_a_signal_is_told_as_a_shell_counts() -> None:
    assert run(script(Command(("sh", "-c", "kill -9 $$")), ends=False))[1] == 137


def test_a_directory_or_program_that_is_not_there() -> None:
    assert run(script(Command(("true",), cwd="/no/such"), ends=True))[1] == 126
    assert run(script(Command(("/no/such/program",)), ends=True))[1] == 127


def test_a_program_has_no_child_that_it_has_not_started() -> None:
    alone = "import os\ntry: os.wait()\nexcept ChildProcessError: print('alone')"
    assert run(script(Command(("python3", "-c", alone)), ends=True))[0] == b"alone\n"


def test_a_variable_that_no_shell_can_set_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="A-B"):
        script(Command(("env",), {"A-B": "secret"}), ends=True)
