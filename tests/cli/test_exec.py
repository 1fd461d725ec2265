"""`sandboxkit exec`: like a command of one's own."""

from __future__ import annotations

import signal
from functools import partial

from anyio import to_thread

from sandboxkit.sandbox import Sandbox
from tests.cli.command import TIMEOUT_S, Cli


def test_streams_and_exit_code(cli: Cli) -> None:
    done = cli.run("exec", "--", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"out\n", b"err\n")


def test_options_after_the_command_are_its_own(cli: Cli) -> None:
    done = cli.run("exec", "--env", "A=b=c", "-w", "/tmp", "sh", "-c", "pwd; echo $A")
    assert (done.returncode, done.stdout) == (0, b"/tmp\nb=c\n")


def test_bytes_go_through_as_they_are(cli: Cli) -> None:
    data = bytes(range(256)) * 4096 + b"\x1b[31m\xff"
    done = cli.run("exec", "cat", stdin=data)
    assert done.returncode == 0
    assert done.stdout == data


def test_a_signal_is_shown_as_a_shell_does(cli: Cli) -> None:
    assert cli.run("exec", "sh", "-c", "kill -TERM $$").returncode == 128 + signal.SIGTERM


def test_what_stays_in_the_background_is_not_waited_for(cli: Cli) -> None:
    done = cli.run("exec", "sh", "-c", "sleep 1000 & echo started")
    assert (done.returncode, done.stdout) == (0, b"started\n")


def test_a_reader_that_leaves_ends_it(cli: Cli) -> None:
    with cli.start("exec", "yes") as running:
        assert running.stdout is not None
        assert running.stdout.read(2) == b"y\n"
        running.stdout.close()
        assert running.wait(TIMEOUT_S) == 128 + signal.SIGPIPE


def test_ctrl_c_leaves_no_container(cli: Cli) -> None:
    with cli.start("exec", "sh", "-c", "echo up; sleep 1000") as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"up\n"
        assert len(cli.ids()) == 1
        running.send_signal(signal.SIGINT)
        _, stderr = running.communicate(timeout=TIMEOUT_S)
    assert running.returncode == 130
    assert stderr.startswith(b"Stopping: ")
    assert b"Traceback" not in stderr
    assert cli.ids() == []


def test_hosts_that_it_may_reach(cli: Cli) -> None:
    ask = "import urllib.request; urllib.request.urlopen('http://other.example')"
    done = cli.run("exec", "--allow", "allowed.example", "python3", "-c", ask)
    assert done.returncode == 1
    assert b"403" in done.stderr
    assert b"other.example is not on the list of allowed hosts" in done.stderr


async def test_in_a_living_sandbox(cli: Cli) -> None:
    async with Sandbox.create("docker") as sandbox:
        run = partial(cli.run, "exec", "--id", sandbox.id, "sh", "-c", "cat > kept; echo $?")
        done = await to_thread.run_sync(partial(run, stdin=b"content"))
        assert (done.returncode, done.stdout) == (0, b"0\n")
        assert await sandbox.files.read("kept") == b"content"


def test_what_is_wrong_is_said_before_anything_is_created(cli: Cli) -> None:
    for wrong in (
        ["--id", "abc", "--image", "debian", "true"],
        ["--memory-gib", "-1", "true"],
        ["--network", "everywhere", "true"],
        ["--network", "open", "--allow", "pypi.example", "true"],
        ["--allow", "no host", "true"],
        ["--env", "s3cret", "true"],
        [],
    ):
        done = cli.run("exec", *wrong)
        assert done.returncode == 2, wrong
        assert b"Usage: sandboxkit exec" in done.stderr
        assert b"s3cret" not in done.stderr


def test_a_program_that_is_not_there(cli: Cli) -> None:
    done = cli.run("exec", "no-such-program")
    assert done.returncode == 1
    assert b"no-such-program" in done.stderr
    assert done.stderr.count(b"\n") == 1
