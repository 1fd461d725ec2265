"""The toolbox of the emulated Daytona: sessions, one-off commands, files."""

from __future__ import annotations

import asyncio
import os

import daytona
import pytest
from daytona import AsyncSandbox

from tests.emulators.daytona import DaytonaEmulator
from tests.emulators.daytona.driving import Log, eventually, run


async def test_a_log_has_both_streams_in_whole_lines_and_no_nul(
    box: AsyncSandbox, session: str
) -> None:
    command = await run(box, session, r"printf 'a\0b\nlast'; printf 'é\n' >&2; (exit 7)")
    log = Log(box, session, command.cmd_id)
    await log.end()
    assert (log.out, log.err) == ("ab\nlast\n", "é\n")
    assert (await box.process.get_session_command(session, command.cmd_id)).exit_code == 7


async def test_input_is_echoed_unless_that_is_suppressed(box: AsyncSandbox, session: str) -> None:
    for quiet, expected in ((True, "one\n"), (False, "one\none\n")):
        command = await run(box, session, "head -n 1", quiet=quiet)
        await box.process.send_session_command_input(session, command.cmd_id, "one")
        log = Log(box, session, command.cmd_id)
        await log.end()
        assert log.out == expected


async def test_a_log_is_replayed_from_its_beginning(box: AsyncSandbox, session: str) -> None:
    command = await run(box, session, "echo first; read line; echo second")
    for _ in range(2):
        log = Log(box, session, command.cmd_id)
        await log.until("first\n")
        await log.aclose()
    await box.process.send_session_command_input(session, command.cmd_id, "")
    log = Log(box, session, command.cmd_id)
    await log.end()
    assert log.out == "first\nsecond\n"


async def test_long_lines_pass_whole(box: AsyncSandbox, session: str) -> None:
    line = "x" * 300_000 + "é"
    command = await run(box, session, "sed -u '/end/q'")
    log = Log(box, session, command.cmd_id)
    for text in (line, "end"):
        await box.process.send_session_command_input(session, command.cmd_id, text)
    await log.end()
    assert log.out == f"{line}\nend\n"


async def test_the_exit_code_comes_only_when_the_streams_have_ended(
    box: AsyncSandbox, session: str
) -> None:
    await box.process.exec("mkfifo /tmp/gate")
    command = await run(box, session, "(read x < /tmp/gate; echo late) & echo early")
    log = Log(box, session, command.cmd_id)
    await log.until("early")
    assert (await box.process.get_session_command(session, command.cmd_id)).exit_code is None
    await box.process.exec("echo > /tmp/gate; rm /tmp/gate")
    await log.end()
    assert log.out == "early\nlate\n"
    assert (await box.process.get_session_command(session, command.cmd_id)).exit_code == 0


async def test_commands_of_a_session_share_its_shell_one_after_the_other(
    box: AsyncSandbox, session: str
) -> None:
    first = await run(box, session, "cd /tmp; x=7; read line; echo $line")
    second = asyncio.ensure_future(run(box, session, "cat; pwd; echo $x >&2; false", wait=True))
    await box.process.send_session_command_input(session, first.cmd_id, "go on")
    answer = await second
    assert (answer.stdout, answer.stderr, answer.exit_code) == ("/tmp\n", "7\n", 1)
    logs = await box.process.get_session_command_logs(session, first.cmd_id)
    assert logs.stdout == "go on\n"
    with pytest.raises(daytona.DaytonaCommandAlreadyCompletedError):
        await box.process.send_session_command_input(session, first.cmd_id, "late")


async def test_exit_ends_the_session(box: AsyncSandbox, session: str) -> None:
    command = await run(box, session, "echo bye; exit 3")
    log = Log(box, session, command.cmd_id)
    await log.end()
    assert log.out == "bye\n"
    with pytest.raises(daytona.DaytonaSessionEndedError):
        await run(box, session, "true")


async def test_deleting_a_session_ends_what_runs_in_it(box: AsyncSandbox, session: str) -> None:
    command = await run(box, session, "trap 'echo asked' TERM; sh -c 'sleep 4321'; echo over")
    log = Log(box, session, command.cmd_id)
    await eventually(lambda: _is_running(box, "sleep 4321"))
    await box.process.delete_session(session)
    assert not await _is_running(box, "sleep 4321")
    with pytest.raises(daytona.DaytonaNotFoundError):
        await box.process.delete_session(session)
    await log.end()


async def _is_running(box: AsyncSandbox, program: str) -> bool:
    said = await box.process.exec("ps -eo args")
    return program in said.result.splitlines()


async def test_unknown_and_doubled_names_are_refused(box: AsyncSandbox, session: str) -> None:
    with pytest.raises(daytona.DaytonaConflictError):
        await box.process.create_session(session)
    with pytest.raises(daytona.DaytonaNotFoundError):
        await box.process.get_session("unknown")
    with pytest.raises(daytona.DaytonaNotFoundError):
        await box.process.get_session_command(session, "unknown")
    with pytest.raises(daytona.DaytonaBadRequestError):
        await run(box, session, "")


async def test_a_log_stays_open_for_a_moment_after_the_end(
    cloud: DaytonaEmulator, box: AsyncSandbox, session: str
) -> None:
    cloud.settings.log_tail_s = 3600.0
    command = await run(box, session, "echo bye")
    log = Log(box, session, command.cmd_id)

    async def has_ended() -> bool:
        found = await box.process.get_session_command(session, command.cmd_id)
        return found.exit_code == 0

    await eventually(has_ended)
    await log.until("bye\n")
    assert not log.reading.done()
    await log.aclose()


async def test_a_one_off_command_has_its_streams_combined_and_a_time_out(
    box: AsyncSandbox,
) -> None:
    said = await box.process.exec("echo out; echo err >&2; exit 3", cwd="/tmp", env={"A": "b"})
    assert (said.exit_code, said.result) == (3, "out\nerr\n")
    said = await box.process.exec("pwd; echo $A", cwd="/tmp", env={"A": "b"})
    assert said.result == "/tmp\nb\n"
    with pytest.raises(daytona.DaytonaProcessExecutionTimeoutError):
        await box.process.exec("sleep 1000", timeout=1)


async def test_files_go_in_and_out(box: AsyncSandbox) -> None:
    content = os.urandom(300_000)
    await box.fs.upload_file(content, "dir/ä file")
    assert await box.fs.download_file("/home/daytona/dir/ä file") == content
    (found,) = await box.fs.list_files("dir")
    assert (found.name, found.size, found.owner) == ("ä file", 300_000, "daytona")
    await box.fs.set_file_permissions("dir/ä file", mode="600")
    assert (await box.fs.get_file_info("dir/ä file")).mode == "-rw-------"
    await box.fs.delete_file("dir", recursive=True)
    for missing in (box.fs.download_file("dir/ä file"), box.fs.get_file_info("dir")):
        with pytest.raises(daytona.DaytonaFileNotFoundError):
            await missing
    with pytest.raises(daytona.DaytonaError):
        await box.fs.upload_file(b"", "/root/file")
