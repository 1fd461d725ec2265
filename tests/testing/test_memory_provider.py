"""The in-memory provider, through the same `Sandbox` that real backends have."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import anyio
import pytest

from sandboxkit.channel.requests import PIPE
from sandboxkit.errors import (
    CommandFailedError,
    ExecStartError,
    InvalidSpecError,
    PathExistsError,
    PathIsDirectoryError,
    PathNotDirectoryError,
    PathNotFoundError,
    SandboxDiedError,
    SandboxNotFoundError,
    UnsafePathError,
    UnsupportedError,
)
from sandboxkit.providers.base import Capabilities, Command
from sandboxkit.providers.registry import providers
from sandboxkit.sandbox import Sandbox
from sandboxkit.testing import Answer, Call, MemoryFiles, MemoryProvider


@pytest.fixture
def memory() -> MemoryProvider:
    return MemoryProvider()


# commands


async def test_a_registered_command_answers_and_is_recorded(memory: MemoryProvider) -> None:
    memory.on(["git", "status"], stdout="clean\n", stderr="a hint\n", exit_code=3)
    async with Sandbox.create(memory, env={"A": "1"}) as sandbox:
        done = await sandbox.exec(["git", "status", "-s"], cwd="/tmp", env={"B": "2"})
    assert (done.exit_code, done.stdout, done.stderr) == (3, b"clean\n", b"a hint\n")
    (call,) = memory.calls
    assert (call.argv, call.cwd) == (("git", "status", "-s"), "/tmp")
    assert (call.env["A"], call.env["B"], call.env["HOME"]) == ("1", "2", "/home/sandbox")
    assert call.sandbox_id == sandbox.id


async def test_a_function_is_given_the_call(memory: MemoryProvider) -> None:
    def wc(call: Call) -> Answer:
        call.files.write("counted", str(len(call.stdin)))
        return Answer(stdout=f"{len(call.stdin)} {call.argv[1]}")

    memory.on(["wc"], wc)
    async with Sandbox.create(memory) as sandbox:
        big = b"x" * 3_000_000  # more than a window
        assert (await sandbox.exec(["wc", "-c"], stdin=big)).text == "3000000 -c"
        assert await sandbox.files.read_text("/work/counted") == "3000000"


async def test_the_last_registered_command_that_fits_counts(memory: MemoryProvider) -> None:
    memory.on(["git"], stdout="any")
    memory.on(["git", "log"], stdout="log")
    memory.on(lambda argv: "--version" in argv, stdout="version")
    memory.on(["true"], exit_code=9)  # also before a built-in one
    async with Sandbox.create(memory) as sandbox:
        said = [(await sandbox.exec(["git", *rest])).text for rest in ([], ["log"], ["--version"])]
        assert said == ["any", "log", "version"]
        assert (await sandbox.exec(["true"])).exit_code == 9


async def test_an_unknown_command_is_not_found_as_on_a_real_backend(memory: MemoryProvider) -> None:
    async with Sandbox.create(memory) as sandbox:
        with pytest.raises(ExecStartError, match=r"cannot start git.*\.on\(\)") as raised:
            await sandbox.exec(["git"])
        assert raised.value.code == "not_found"
        with pytest.raises(ExecStartError) as raised:
            await sandbox.exec(["true"], cwd="/nowhere")
        assert raised.value.code == "bad_cwd"
        with pytest.raises(ExecStartError):
            await sandbox.sh("git status | wc -l")
    assert [call.argv[0] for call in memory.calls] == ["git", "/bin/sh"]


async def test_the_few_commands_that_are_always_there(memory: MemoryProvider) -> None:
    async with Sandbox.create(memory) as sandbox:
        await sandbox.files.write("note", "kept")
        assert (await sandbox.exec(["echo", "a", "b"])).text == "a b\n"
        assert (await sandbox.exec(["cat", "note"])).text == "kept"
        assert (await sandbox.exec(["/bin/cat"], stdin=b"in")).text == "in"
        assert (await sandbox.exec(["cat", "gone"])).exit_code == 1
        assert (await sandbox.exec(["sleep", "0"])).exit_code == 0
        with pytest.raises(CommandFailedError):
            await sandbox.exec(["false"], check=True)


async def test_what_a_command_raises_is_its_traceback(memory: MemoryProvider) -> None:
    def broken(_call: Call) -> Answer:
        raise ZeroDivisionError("in the test's own function")

    memory.on(["broken"], broken)
    async with Sandbox.create(memory) as sandbox:
        done = await sandbox.exec(["broken"])
    assert done.exit_code == 1
    assert b"ZeroDivisionError: in the test's own function" in done.stderr


async def test_a_time_out_and_a_cancellation_end_the_command(memory: MemoryProvider) -> None:
    async with Sandbox.create(memory) as sandbox:
        done = await sandbox.exec(["sleep", "3600"], timeout_s=0.01)
        assert (done.timed_out, done.exit_code) == (True, -signal.SIGTERM)
        with anyio.move_on_after(0.01):
            await sandbox.exec(["sleep", "3600"])
    assert [call.signals for call in memory.calls] == [[signal.SIGTERM], [signal.SIGKILL]]


# processes


async def test_a_conversation_with_a_process(memory: MemoryProvider) -> None:
    async def shout(call: Call) -> None:
        await call.write("ready\n", fd=2)
        while data := await call.read():
            await call.write(data.upper())

    memory.on(["shout"], shout)
    async with (
        Sandbox.create(memory) as sandbox,
        await sandbox.spawn(["shout"], stdin=PIPE) as process,
    ):
        assert await process.stderr.receive() == b"ready\n"
        for word in (b"one", b"two"):
            await process.stdin.write(word)
            assert await process.stdout.receive() == word.upper()
        await process.stdin.close()
        assert await process.wait() == 0
        assert memory.calls[0].stdin == b"onetwo"


async def test_a_slow_reader_holds_up_the_process_and_no_other(memory: MemoryProvider) -> None:
    written = 0

    async def flood(call: Call) -> None:
        nonlocal written
        for _ in range(64):
            await call.write(b"x" * 65536)
            written += 65536

    memory.on(["flood"], flood)
    async with Sandbox.create(memory) as sandbox, await sandbox.spawn(["flood"]) as process:
        assert (await sandbox.exec(["echo", "still here"])).exit_code == 0
        assert written <= 1024 * 1024
        assert len(await process.stdout.read()) == 64 * 65536
        assert await process.wait() == 0


async def test_signals_reach_the_process(memory: MemoryProvider) -> None:
    async def careful(_call: Call) -> Answer:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            return Answer(7, "cleaned up")
        return Answer()

    memory.on(["careful"], careful)
    async with Sandbox.create(memory) as sandbox:
        async with await sandbox.spawn(["sleep", "3600"]) as process:
            await process.signal(signal.SIGWINCH)
            await process.signal(signal.SIGUSR1)
            assert await process.wait() == -signal.SIGUSR1
        assert memory.calls[0].signals == [signal.SIGWINCH, signal.SIGUSR1]
        async with await sandbox.spawn(["careful"]) as process:
            await sandbox.exec(["true"])  # by now it has begun
            await process.signal(signal.SIGTERM)
            assert await process.wait() == 7
            assert await process.stdout.read() == b"cleaned up"


async def test_a_kill_ends_what_does_not_want_to_end(memory: MemoryProvider) -> None:
    released = asyncio.Event()

    async def stubborn(call: Call) -> None:
        await call.write("up")
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue

    memory.on(["stubborn"], stubborn)
    async with Sandbox.create(memory) as sandbox:
        process = await sandbox.spawn(["stubborn"])
        assert await process.stdout.receive() == b"up"
        await process.kill(grace_s=0.01)
        assert await process.wait() == -signal.SIGKILL
        await process.kill()
    released.set()


async def test_a_terminal_has_one_stream(memory: MemoryProvider) -> None:
    memory.on(["both"], stdout="out ", stderr="err")
    async with (
        Sandbox.create(memory) as sandbox,
        await sandbox.spawn(["both"], pty=True) as process,
    ):
        await process.resize(40, 100)
        assert await process.stdout.read() == b"out err"
        assert await process.stderr.read() == b""


async def test_a_detached_process_is_taken_up_by_another_host(memory: MemoryProvider) -> None:
    first = await Sandbox.create(memory)
    process = await first.spawn(["cat"], stdin=PIPE, detach=True)
    await process.stdin.write(b"one\n")
    assert await process.stdout.receive() == b"one\n"
    alone = await first.spawn(["sleep", "3600"])
    await first.detach(keep_s=60)
    assert alone.exit_code is None
    async with Sandbox.attach(memory, first.id) as second:
        again = await second.process(process.id)
        await again.stdin.write(b"two\n")
        await again.stdin.close()
        assert (await again.stdout.read()).endswith(b"two\n")
        assert await again.wait() == 0
        with pytest.raises(ExecStartError) as raised:
            await second.process("nobody-1")
        assert raised.value.code == "not_found"
        await second.destroy()


async def test_a_broken_connection_is_taken_up_again(memory: MemoryProvider) -> None:
    async with Sandbox.create(memory) as sandbox:
        async with await sandbox.spawn(["cat"], stdin=PIPE) as process:
            heard = b""
            for number in range(20):
                line = b"%d\n" % number
                await process.stdin.write(line)
                memory.cut(sandbox.id)
                while not heard.endswith(line):
                    heard += await process.stdout.receive()
        assert heard == b"".join(b"%d\n" % number for number in range(20))


async def test_what_is_lost_with_a_connection_is_said_again(memory: MemoryProvider) -> None:
    async def chatter(call: Call) -> Answer:
        for number in range(20):
            await call.write(f"{number}\n")
            memory.cut(call.sandbox_id)  # before the host can have received it
        return Answer(5)

    memory.on(["chatter"], chatter)
    async with Sandbox.create(memory) as sandbox:
        done = await sandbox.exec(["chatter"])
    assert (done.exit_code, done.text) == (5, "".join(f"{number}\n" for number in range(20)))


# files


async def test_files_are_those_of_a_file_system(memory: MemoryProvider) -> None:
    async with Sandbox.create(memory) as sandbox:
        files = sandbox.files
        await files.write("a/b/c.txt", "one", mode=0o600)
        await files.write("a/b/c.txt", "two", append=True)
        found = await files.stat("/work/a/b/c.txt")
        assert (found.name, found.kind, found.size, found.mode) == ("c.txt", "file", 6, 0o600)
        assert [entry.name for entry in await files.list("a/b")] == ["c.txt"]
        await files.move("a/b/c.txt", "a/d.txt")
        assert await files.read("/work/./a/b/../d.txt") == b"onetwo"
        assert not await files.exists("a/b/c.txt")
        await files.remove("a", recursive=True)
        assert await files.list() == []


async def test_a_large_file_is_streamed(memory: MemoryProvider) -> None:
    content = bytes(range(256)) * 20_000
    async with Sandbox.create(memory) as sandbox:
        async with sandbox.files.open_write("big") as target:
            await target.write(content)
        async with sandbox.files.open_read("big", offset=5) as source:
            assert await source.read() == content[5:]
        with pytest.raises(RuntimeError, match="changed my mind"):  # noqa: PT012
            async with sandbox.files.open_write("big") as target:
                await target.write(b"half")
                raise RuntimeError("changed my mind")
        assert await sandbox.files.read("big") == content


@pytest.mark.parametrize(
    ("method", "arguments", "options", "expected"),
    [
        ("read", ["gone"], {}, PathNotFoundError),
        ("read", ["directory"], {}, PathIsDirectoryError),
        ("read", ["file/below"], {}, PathNotDirectoryError),
        ("read", ["loop"], {}, UnsafePathError),
        ("list", ["file"], {}, PathNotDirectoryError),
        ("write", ["directory", "x"], {}, PathIsDirectoryError),
        ("write", ["file", "x"], {"exclusive": True}, PathExistsError),
        ("write", ["gone/x", "x"], {"parents": False}, PathNotFoundError),
        ("make_dir", ["file"], {}, PathExistsError),
        ("make_dir", ["directory"], {"exist_ok": False}, PathExistsError),
        ("remove", ["gone"], {}, PathNotFoundError),
        ("remove", ["directory"], {}, PathExistsError),
        ("move", ["file", "directory/below"], {}, PathExistsError),
        ("move", ["gone", "there"], {}, PathNotFoundError),
    ],
)
async def test_file_errors_are_those_of_a_file_system(
    method: str, arguments: list[str], options: dict[str, Any], expected: type[Exception]
) -> None:
    def plant(call: Call) -> None:
        call.files.symlink("loop", "loop")

    memory = MemoryProvider(files={"/work/file": "f", "/work/directory/below": "b"})
    memory.on(["plant"], plant)
    async with Sandbox.create(memory) as sandbox:
        await sandbox.exec(["plant"])
        with pytest.raises(expected):
            await getattr(sandbox.files, method)(*arguments, **options)
        assert await sandbox.files.read("directory/below") == b"b"


async def test_trees_go_in_and_come_out(memory: MemoryProvider, tmp_path: Path) -> None:
    source = tmp_path / "in"
    (source / "deep" / "er").mkdir(parents=True)
    (source / "deep" / "er" / "big").write_bytes(b"0123456789" * 100_000)
    (source / "run").write_text("#!")
    (source / "run").chmod(0o755)
    (source / "link").symlink_to("deep/er/big")
    async with Sandbox.create(memory) as sandbox:
        await sandbox.files.upload(source, "tree")
        assert (await sandbox.files.stat("tree/run")).mode == 0o755
        assert (await sandbox.files.stat("tree/link", follow=False)).target == "deep/er/big"
        assert (await sandbox.files.stat("tree/link")).size == 1_000_000
        await sandbox.files.download("tree", tmp_path / "out")
        await sandbox.files.download("tree/run", tmp_path / "run")
    out = tmp_path / "out"
    assert (out / "link").read_bytes() == (source / "deep" / "er" / "big").read_bytes()
    assert (out / "run").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "run").read_text() == "#!"


async def test_a_tree_is_not_written_through_a_symlink(
    memory: MemoryProvider, tmp_path: Path
) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "deep" / "file").write_text("x")
    memory.on(["plant"], lambda call: call.files.symlink("/tmp", "tree/deep"))
    async with Sandbox.create(memory) as sandbox:
        await sandbox.files.make_dir("tree")
        await sandbox.exec(["plant"])
        with pytest.raises(PathNotDirectoryError):
            await sandbox.files.upload(tmp_path / "in", "tree")
        assert await sandbox.files.list("/tmp") == []


def test_files_are_of_use_by_themselves() -> None:
    files = MemoryFiles()
    files.fill({"/a/b": "text"})
    assert (files.list("/a"), files.at("/a").read("b"), files.exists("/c")) == (
        ["b"],
        b"text",
        False,
    )
    files.symlink("../a", "/a/self")
    assert files.read("/a/self/self/b") == b"text"
    with pytest.raises(OSError, match="Invalid argument"):
        files.move("/a", "/a/self/below")
    with pytest.raises(FileNotFoundError):
        files.read("/gone")


# life


async def test_labels_list_attach_and_the_end(memory: MemoryProvider) -> None:
    sandbox = await Sandbox.create(memory, labels={"job": "7"})
    other = await Sandbox.create(memory)
    assert [info.id async for info in memory.list({"job": "7"})] == [sandbox.id]
    async with Sandbox.attach(memory, sandbox.id) as attached:
        await attached.files.write("shared", "by both")
    assert await sandbox.files.read("shared") == b"by both"
    async with Sandbox.attach(memory, sandbox.id) as attached:
        await attached.destroy()
    with pytest.raises(SandboxDiedError):
        await sandbox.exec(["true"])
    await sandbox.destroy()
    with pytest.raises(SandboxNotFoundError):
        await Sandbox.attach(memory, sandbox.id)
    await other.destroy()
    assert [info async for info in memory.list({})] == []


async def test_nothing_is_enforced_and_that_is_said(memory: MemoryProvider) -> None:
    async with Sandbox.create(memory) as sandbox:
        fields = {difference.field for difference in sandbox.info.differences}
        assert fields >= {"resources.cpu", "resources.memory_gib", "network"}
        assert sandbox.info.effective.isolation == "none"
    with pytest.raises(UnsupportedError, match="memory enforces no limit"):
        await Sandbox.create(memory, cpu=2)
    assert [info async for info in memory.list({})] == []


async def test_it_claims_what_the_test_wants_it_to(tmp_path: Path) -> None:
    claimed = Capabilities(
        isolation="container",
        limits=frozenset({"cpu"}),
        network=frozenset({"none"}),
        images=True,
        artifacts=True,
    )
    memory = MemoryProvider(capabilities=claimed)
    (tmp_path / "tool").write_text("it")
    artifact = {
        "name": "tool",
        "version": "1",
        "platform": "any",
        "source": tmp_path / "tool",
        "target": "/opt/tool/tool",
    }
    async with Sandbox.create(memory, cpu=2, image="any:1", artifacts=[artifact]) as sandbox:
        effective = sandbox.info.effective
        assert (effective.cpu, effective.image, effective.network) == (2, "any:1", "none")
        assert await sandbox.files.read("/opt/tool/tool") == b"it"
    with pytest.raises(UnsupportedError, match="network"):
        await Sandbox.create(memory, network="open")


async def test_it_stands_in_for_a_backend_by_name(memory: MemoryProvider) -> None:
    providers.register("stand-in", lambda: memory)
    async with Sandbox.create("stand-in") as sandbox:
        await sandbox.exec(["true"])
    assert len(memory.calls) == 1


async def test_ports_and_foreign_programs_are_refused(memory: MemoryProvider) -> None:
    async with Sandbox.create(memory) as sandbox:
        with pytest.raises(ExecStartError, match="has no ports") as raised:
            async with sandbox.ports.reverse(0, "127.0.0.1", 9):
                pass
        assert raised.value.code == "unsupported"
        async with sandbox.ports.forward(80) as address:
            reader, writer = await asyncio.open_connection(address.host, address.port)
            with pytest.raises(ConnectionResetError):
                await reader.read()
            writer.close()
        with pytest.raises(UnsupportedError):
            await (await memory.attach(sandbox.id)).spawn(Command(argv=("ls",)))


@pytest.mark.parametrize("what", ["git status", [], ()])
def test_a_command_is_a_list(memory: MemoryProvider, what: Any) -> None:
    with pytest.raises(InvalidSpecError, match="a command is a list"):
        memory.on(what)


async def test_a_detached_process_between_two_hosts(memory: MemoryProvider) -> None:
    """As in a real sandbox: kept, noted, refused while a host lives, and marked."""

    async def flood(call: Call) -> None:
        await call.write(b"x" * 3_000_000)
        await call.read()

    memory.on(["flood"], flood)
    async with Sandbox.create(memory) as sandbox, Sandbox.attach(memory, sandbox.id) as again:
        process = await sandbox.spawn(
            ["flood"], stdin=PIPE, detach="lossless", note="one", acknowledge="by_hand"
        )
        await process.set_note("two")
        assert await process.stdout.receive(1) == b"x"
        process.stdout.acknowledge(1, "a mark")
        await process.aclose()
        (info,) = await again.processes()
        assert (info.note, info.detached, info.running) == ("two", True, True)
        taken = await again.process(info.id)
        assert (taken.note, taken.stdout.begins) == ("two", 1)
        await taken.stdin.write(b"go\n")
        assert len(await taken.stdout.read()) == 2_999_999
        assert await taken.wait() == 0
