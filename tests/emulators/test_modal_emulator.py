"""The emulated Modal, driven by the unmodified SDK: what works, what is refused, what breaks."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import modal
import modal.exception
import pytest
from grpclib import GRPCError, Status
from grpclib.client import Channel
from modal_proto import api_pb2 as api
from modal_proto import task_command_router_pb2 as sr
from modal_proto.api_grpc import ModalClientStub
from modal_proto.task_command_router_grpc import TaskCommandRouterStub

from tests.emulators.faults import Fault
from tests.emulators.modal import ModalEmulator

Create = Callable[..., Coroutine[Any, Any, Any]]
APP = "tests"
# The SDK's types are partly unknown.
registry: Any = getattr(modal.Image, "from_registry")  # noqa: B009
sandboxes: Any = modal.Sandbox
OFTEN = 40  # more often than the SDK tries again


@pytest.fixture(scope="module")
def cloud(engine: str) -> Iterator[ModalEmulator]:
    with ModalEmulator(engine) as emulator, pytest.MonkeyPatch.context() as patch:
        for name, value in emulator.environment().items():
            patch.setenv(name, value)
        yield emulator


@pytest.fixture
async def client(cloud: ModalEmulator) -> AsyncIterator[Any]:
    client = await modal.Client.from_credentials.aio(
        cloud.tokens.token_id, cloud.tokens.token_secret
    )
    yield client
    cloud.faults.clear()
    await client.close.aio()


@pytest.fixture
async def app(client: Any) -> Any:
    return await modal.App.lookup.aio(APP, client=client, create_if_missing=True)


@pytest.fixture
async def image(app: Any) -> Any:
    return await registry("debian:stable").build.aio(app)


@pytest.fixture
async def create(cloud: ModalEmulator, app: Any, image: Any, client: Any) -> AsyncIterator[Create]:
    made: list[Any] = []

    async def create(*command: str, **options: Any) -> Any:
        options = {"image": image, "timeout": 300, "block_network": True, **options}
        made.append(await sandboxes.create.aio(*command, app=app, client=client, **options))
        return made[-1]

    yield create
    cloud.faults.clear()
    for sandbox in made:
        await sandbox.terminate.aio()
        await sandbox.detach.aio()
    assert not cloud.sandboxes()


async def run(sandbox: Any, *command: str, stdin: bytes = b"", **options: Any) -> tuple[int, bytes]:
    """The exit code and stdout of a program."""
    process = await sandbox.exec.aio(*command, text=False, **options)
    process.stdin.write(stdin)
    process.stdin.write_eof()
    await process.stdin.drain.aio()
    said = await process.stdout.read.aio()
    return await process.wait.aio(), said


def fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return bytes(answer.read())


async def sh(sandbox: Any, script: str, **options: Any) -> str:
    code, said = await run(sandbox, "sh", "-c", script, **options)
    assert code == 0
    return said.decode()


# What works.


async def test_a_program_has_streams_an_exit_code_variables_and_a_directory(create: Create) -> None:
    sandbox = await create(env={"FROM": "sandbox", "BOTH": "sandbox"}, workdir="/tmp")
    process = await sandbox.exec.aio(
        "sh", "-c", "cat; pwd; echo $FROM $BOTH >&2; exit 3", text=False, env={"BOTH": "program"}
    )
    process.stdin.write(b"\x00\xff\n")
    process.stdin.write_eof()
    await process.stdin.drain.aio()
    assert await process.stdout.read.aio() == b"\x00\xff\n/tmp\n"
    assert await process.stderr.read.aio() == b"sandbox program\n"
    assert await process.wait.aio() == 3
    assert await sh(sandbox, "pwd; id -u", workdir="/usr") == "/usr\n0\n"


async def test_input_and_output_go_on_while_a_program_runs(create: Create) -> None:
    sandbox = await create()
    process = await sandbox.exec.aio("cat", text=False)
    output = aiter(process.stdout)
    for number in range(20):
        process.stdin.write(b"%d\n" % number)
        await process.stdin.drain.aio()
        assert await anext(output) == b"%d\n" % number
    assert await process.poll.aio() is None
    process.stdin.write_eof()
    await process.stdin.drain.aio()
    assert await process.wait.aio() == 0


async def test_much_goes_through_and_comes_back(create: Create) -> None:
    sandbox = await create()
    data = os.urandom(12 * 1024 * 1024)
    digest = hashlib.sha256(data).hexdigest()
    assert await sh(sandbox, "sha256sum", stdin=data) == f"{digest}  -\n"
    code, said = await run(sandbox, "head", "-c", "80000000", "/dev/zero")
    assert (code, len(said)) == (0, 80_000_000)


async def test_a_program_that_cannot_be_started_says_so(create: Create) -> None:
    sandbox = await create()
    assert (await run(sandbox, "no-such-program"))[0] == 127
    assert (await run(sandbox, "true", workdir="/no/such/directory"))[0] == 126


async def test_files(create: Create) -> None:
    sandbox = await create()
    files = sandbox.filesystem
    data = os.urandom(600_000)
    await files.write_bytes.aio(data, "/tmp/new/file")
    assert await files.read_bytes.aio("/tmp/new/file") == data
    assert [each.name for each in await files.list_files.aio("/tmp/new")] == ["file"]
    with pytest.raises(modal.exception.SandboxFilesystemNotFoundError):
        await files.read_bytes.aio("/tmp/none")
    with pytest.raises(modal.exception.SandboxFilesystemDirectoryNotEmptyError):
        await files.remove.aio("/tmp/new")


async def test_sandboxes_are_found_by_app_tags_name_and_id(
    create: Create, app: Any, client: Any
) -> None:
    first = await create(tags={"kind": "a", "number": "1"}, name="first")
    second = await create(tags={"kind": "a", "number": "2"})

    async def found(**tags: str) -> set[str]:
        listed = modal.Sandbox.list.aio(app_id=app.app_id, tags=tags, client=client)
        return {each.object_id async for each in listed}

    assert await found(kind="a") == {first.object_id, second.object_id}
    assert await found(kind="a", number="2") == {second.object_id}
    assert await found(kind="b") == set()
    by_name = await modal.Sandbox.from_name.aio(APP, "first", client=client)
    assert by_name.object_id == first.object_id
    attached: Any = await modal.Sandbox.from_id.aio(first.object_id, client=client)
    assert await sh(attached, "echo here") == "here\n"
    await attached.set_tags.aio({"kind": "b"})
    assert await found(kind="b") == {first.object_id}
    assert await first.get_tags.aio() == {"kind": "b"}
    await attached.detach.aio()


async def test_a_list_comes_in_pages(
    cloud: ModalEmulator,
    create: Create,
    app: Any,
    client: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for number in range(3):
        await create(tags={"number": str(number)})
    monkeypatch.setattr(cloud.control, "page", 2)
    listed = modal.Sandbox.list.aio(app_id=app.app_id, client=client)
    assert {each.object_id async for each in listed} == cloud.sandboxes()


async def test_a_sandbox_ends_with_its_entry_point(create: Create) -> None:
    sandbox = await create("sh", "-c", "echo started; read line; echo got $line; exit 4")
    sandbox.stdin.write(b"word\n")
    await sandbox.stdin.drain.aio()
    await sandbox.wait.aio()
    assert sandbox.returncode == 4
    assert await sandbox.stdout.read.aio() == "started\ngot word\n"
    with pytest.raises((modal.exception.NotFoundError, modal.exception.ConflictError)):
        await sandbox.exec.aio("true")


async def test_terminating_is_heard_of_and_may_be_repeated(create: Create) -> None:
    sandbox = await create()
    process = await sandbox.exec.aio("sleep", "1000")
    waiting = asyncio.create_task(process.wait.aio())
    await sandbox.terminate.aio()
    assert await sandbox.terminate.aio(wait=True) == 137
    with pytest.raises(modal.exception.NotFoundError):
        await waiting


async def test_a_machine_is_limited(create: Create) -> None:
    # A core of Modal's is two CPUs.
    sandbox = await create(cpu=(0.125, 0.5), memory=(128, 300))
    script = """
        cd /sys/fs/cgroup
        if [ -e memory.max ]; then cat memory.max cpu.max
        else cat memory/memory.limit_in_bytes
            echo $(cat cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us); fi
    """
    assert await sh(sandbox, script) == f"{300 * 1024 * 1024}\n100000 100000\n"


@pytest.mark.parametrize("blocked", [True, False])
async def test_the_network_can_be_blocked(create: Create, blocked: bool) -> None:
    sandbox = await create(block_network=blocked)
    devices = (await sh(sandbox, "ls /sys/class/net")).split()
    assert devices == (["lo"] if blocked else ["eth0", "lo"])


async def test_declared_ports_have_tunnels(create: Create) -> None:
    sandbox = await create(unencrypted_ports=[8000], encrypted_ports=[8001], block_network=False)
    await sh(sandbox, "mkdir /srv/x; echo body > /srv/x/file")
    for port in ("8000", "8001"):
        server = await sandbox.exec.aio("python3", "-um", "http.server", "-d", "/srv/x", port)
        assert "Serving" in await anext(aiter(server.stdout))
    tunnels = await sandbox.tunnels.aio()
    assert set(tunnels) == {8000, 8001}
    host, port = tunnels[8000].tcp_socket
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(b"GET /file HTTP/1.0\r\n\r\n")
    assert (await reader.read()).endswith(b"\r\n\r\nbody\n")
    writer.close()
    await writer.wait_closed()
    assert await asyncio.to_thread(fetch, f"{tunnels[8001].url}/file") == b"body\n"


async def test_time_limits(create: Create) -> None:
    sandbox = await create(timeout=4)
    started = time.monotonic()
    process = await sandbox.exec.aio("sleep", "1000", timeout=1)
    assert await process.wait.aio() == -1
    with pytest.raises(modal.exception.SandboxTimeoutError):
        await sandbox.wait.aio()
    assert sandbox.returncode == 124
    assert time.monotonic() - started > 3


async def test_a_program_is_killed_after_its_time(create: Create) -> None:
    sandbox = await create()
    process = await sandbox.exec.aio("sleep", "1000", timeout=1)
    assert await process.wait.aio() == -1
    count = "n=0; for p in /proc/[0-9]*/comm; do grep -qx sleep $p && n=$((n+1)); done; echo $n"
    while int(await sh(sandbox, count)) > 2:  # the machine's own, and the entry point
        await asyncio.sleep(0.1)


async def test_an_idle_sandbox_ends(create: Create) -> None:
    sandbox = await create(idle_timeout=1)
    await sandbox.wait.aio(raise_on_termination=False)
    assert sandbox.returncode is not None


# Images.


async def test_an_image_is_built_once_with_files_and_commands(
    cloud: ModalEmulator, create: Create, app: Any, tmp_path: Path
) -> None:
    (tmp_path / "small").write_bytes(b"small")
    (tmp_path / "small").chmod(0o755)
    large = os.urandom(5 * 1024 * 1024)
    (tmp_path / "large").write_bytes(large)
    recipe = (
        registry("python:3.12")
        .add_local_file(tmp_path / "small", "/opt/bin/small", copy=True)
        .add_local_file(tmp_path / "large", "/opt/large", copy=True)
        .env({"COLOUR": "blue"})
        .run_commands("cat /opt/bin/small > /made; echo $COLOUR >> /made")
    )
    built = await recipe.build.aio(app)
    sandbox = await create(image=modal.Image.from_id(built.object_id))
    assert await sh(sandbox, "cat /made; echo $COLOUR") == "smallblue\nblue\n"
    assert await sh(sandbox, "stat -c %a:%U /opt/bin/small") == "755:root\n"
    assert (
        await sh(sandbox, "sha256sum < /opt/large") == hashlib.sha256(large).hexdigest() + "  -\n"
    )
    uploads = cloud.faults.calls["upload"]
    again = await recipe.build.aio(app)
    assert again.object_id == built.object_id
    assert cloud.faults.calls["upload"] == uploads


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # leaks files
async def test_a_very_large_file_comes_in_parts(
    cloud: ModalEmulator, create: Create, app: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cloud.uploads, "large", 5_000_000)
    monkeypatch.setattr(cloud.uploads, "part", 3_000_000)
    data = os.urandom(7_000_000)
    (tmp_path / "large").write_bytes(data)
    image = registry("x").add_local_file(tmp_path / "large", "/large", copy=True)
    sandbox = await create(image=await image.build.aio(app))
    assert await sh(sandbox, "sha256sum < /large") == hashlib.sha256(data).hexdigest() + "  -\n"


async def test_files_can_be_added_at_the_start(create: Create, image: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("added")
    sandbox = await create(image=image.add_local_file(tmp_path / "file", "/added/file"))
    assert await sh(sandbox, "cat /added/file") == "added"


async def test_an_image_that_is_not_there_cannot_be_built(app: Any) -> None:
    with pytest.raises(modal.exception.ImageBuildError, match="no-such-image"):
        await registry("example/no-such-image:1").build.aio(app)


async def test_a_failing_command_fails_the_build_and_is_in_the_log(
    app: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    image = registry("x").run_commands("echo before it; exit 7")
    with modal.enable_output(), pytest.raises(modal.exception.ImageBuildError, match="code 7"):
        await image.build.aio(app)
    assert "before it" in capsys.readouterr().out


async def test_the_default_image_needs_no_build(create: Create, app: Any) -> None:
    sandbox = await create(image=await modal.Image.debian_slim().build.aio(app))
    assert await sh(sandbox, "echo here") == "here\n"


async def test_an_unknown_image_id_is_not_found(create: Create) -> None:
    with pytest.raises(modal.exception.NotFoundError, match="im-none"):
        await create(image=modal.Image.from_id("im-none"))


# Snapshots.


async def test_a_snapshot_of_all_files_starts_another_sandbox(create: Create) -> None:
    sandbox = await create(env={"COLOUR": "blue"})
    await sh(sandbox, "echo kept > /kept")
    snapshot = await sandbox.snapshot_filesystem.aio()
    await sh(sandbox, "echo later > /kept")
    other = await create(image=modal.Image.from_id(snapshot.object_id))
    assert await sh(other, "cat /kept") == "kept\n"


async def test_a_snapshot_of_a_directory_is_mounted_elsewhere(create: Create) -> None:
    sandbox = await create()
    await sh(sandbox, "mkdir -p /work/a; echo kept > /work/a/file")
    snapshot = await sandbox.snapshot_directory.aio("/work")
    other = await create()
    await sh(other, "mkdir -p /work; echo hidden > /work/own")
    await other.mount_image.aio("/work", snapshot)
    assert await sh(other, "cd /work; find . -type f; cat a/file") == "./a/file\nkept\n"
    with pytest.raises(modal.exception.ConflictError, match="already"):
        await other.mount_image.aio("/work", snapshot)
    await other.unmount_image.aio("/work")
    assert await sh(other, "ls /work") == "own\n"
    with pytest.raises(modal.exception.ConflictError, match="directory only"):
        await create(image=modal.Image.from_id(snapshot.object_id))


# What is refused.


async def test_a_name_is_unique_while_its_sandbox_runs(create: Create) -> None:
    first = await create(name="taken")
    with pytest.raises(modal.exception.AlreadyExistsError, match="taken"):
        await create(name="taken")
    await first.terminate.aio()
    await create(name="taken")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeout": 86401}, "timeout"),
        ({"timeout": 0}, "timeout"),
        ({"cpu": (65.0, 65.0)}, "CPU"),
        ({"cpu": 0.01}, "CPU"),
        ({"memory": (1, 1)}, "memory"),
        ({"memory": 400_000}, "memory"),
        ({"encrypted_ports": [80], "h2_ports": [80], "block_network": False}, "twice"),
        ({"encrypted_ports": [70000], "block_network": False}, "port"),
    ],
)
async def test_what_is_out_of_range_is_refused(
    cloud: ModalEmulator, create: Create, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(modal.exception.InvalidError, match=message):
        await create(**options)
    assert not cloud.sandboxes()


async def test_a_command_line_that_is_too_long_is_refused(
    monkeypatch: pytest.MonkeyPatch, create: Create
) -> None:
    sandbox = await create()
    monkeypatch.setattr("modal.sandbox._common.ARG_MAX_BYTES", 10**6)
    with pytest.raises(modal.exception.InvalidError, match="65536"):
        await sandbox.exec.aio("true", "x" * 65536)
    with pytest.raises(modal.exception.InvalidError, match="65536"):
        await create("true", "x" * 65536)


async def test_a_wrong_key_is_refused(cloud: ModalEmulator) -> None:
    client = await modal.Client.from_credentials.aio(cloud.tokens.token_id, "as-wrong")
    with pytest.raises(modal.exception.AuthError):
        await modal.App.lookup.aio(APP, client=client)
    await client.close.aio()


async def test_each_service_wants_its_own_token(
    cloud: ModalEmulator, create: Create, app: Any
) -> None:
    first, second = await create(), await create()
    task, other = (cloud.sandbox(each.object_id).task_id for each in (first, second))
    account = {
        "x-modal-client-version": "1.6.4",
        "x-modal-token-id": cloud.tokens.token_id,
        "x-modal-token-secret": cloud.tokens.token_secret,
    }
    bearer = {"authorization": f"Bearer {cloud.tokens.issue(task)}"}
    host, port = cloud.url.removeprefix("http://").split(":")
    async with Channel(host, int(port)) as channel:
        control, router = ModalClientStub(channel), TaskCommandRouterStub(channel)
        wanted = api.SandboxListRequest(app_id=app.app_id)
        poll = {name: sr.TaskExecPollRequest(task_id=name, exec_id="x") for name in (task, other)}
        asked = [
            (control.SandboxListV2(wanted, metadata=account), Status.UNAUTHENTICATED),
            (control.SandboxListV2(wanted, metadata={}), Status.FAILED_PRECONDITION),
            (router.TaskExecPoll(poll[task], metadata=account), Status.UNAUTHENTICATED),
            (router.TaskExecPoll(poll[other], metadata=bearer), Status.PERMISSION_DENIED),
            (router.TaskExecPoll(poll[task], metadata=bearer), Status.NOT_FOUND),
        ]
        for asking, status in asked:
            with pytest.raises(GRPCError) as caught:
                await asking
            assert caught.value.status is status


async def test_what_is_not_there_is_not_found(app: Any, client: Any) -> None:
    with pytest.raises(modal.exception.NotFoundError):
        await modal.App.lookup.aio("no-such-app", client=client)
    with pytest.raises(modal.exception.NotFoundError):
        await modal.Sandbox.from_id.aio(f"sb-{'A' * 26}", client=client)
    with pytest.raises(modal.exception.NotFoundError):
        await modal.Sandbox.from_name.aio(APP, "nobody", client=client)


async def test_what_is_not_emulated_says_its_name(create: Create) -> None:
    with pytest.raises(modal.exception.UnimplementedError, match="VolumeGetOrCreate"):
        await create(volumes={"/v": modal.Volume.from_name("v", create_if_missing=True)})
    sandbox = await create()
    with pytest.raises(modal.exception.UnimplementedError, match="SandboxCreateConnectTokenV2"):
        await sandbox.create_connect_token.aio()


async def test_an_expired_token_of_a_router_is_renewed(
    cloud: ModalEmulator, create: Create, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cloud.tokens, "life_s", 20)
    sandbox = await create()
    assert await sh(sandbox, "echo one") == "one\n"
    cloud.tokens.expire()
    assert await sh(sandbox, "echo two") == "two\n"


# What goes wrong because a test wants it.


@pytest.mark.parametrize(
    ("status", "error"),
    [
        ("UNAVAILABLE", modal.exception.ServiceError),
        ("INTERNAL", modal.exception.InternalError),
        (429, modal.exception.ResourceExhaustedError),
        ("PERMISSION_DENIED", modal.exception.PermissionDeniedError),
    ],
)
async def test_refusing_to_create(
    cloud: ModalEmulator, create: Create, status: int | str, error: type[Exception]
) -> None:
    cloud.faults.add(Fault("create", "refuse", times=OFTEN, status=status))
    with pytest.raises(error, match="refused"):
        await create()
    assert not cloud.sandboxes()


async def test_refusing_for_a_while(cloud: ModalEmulator, create: Create) -> None:
    cloud.faults.clear()
    cloud.faults.add(Fault("create", "refuse", status=429, retry_after=0.3))
    started = time.monotonic()
    await create()
    assert cloud.faults.calls["create"] == 2
    assert time.monotonic() - started > 0.3


async def test_delaying(cloud: ModalEmulator, create: Create) -> None:
    cloud.faults.add(Fault("create", "delay", seconds=5))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await create()


async def test_a_lost_answer_is_asked_for_again_and_the_same(
    cloud: ModalEmulator, create: Create
) -> None:
    cloud.faults.add(Fault("create", "lose_answer"))
    sandbox = await create()
    assert cloud.sandboxes() == {sandbox.object_id}


async def test_a_lost_answer_leaves_two_if_answers_are_not_kept(
    cloud: ModalEmulator, create: Create, app: Any, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cloud.wire, "keeps_answers", False)
    cloud.faults.add(Fault("create", "lose_answer"))
    await create()
    assert len(cloud.sandboxes()) == 2
    await terminate_all(app, client)


async def test_an_answer_that_is_lost_for_good_leaves_a_sandbox(
    cloud: ModalEmulator, create: Create, app: Any, client: Any
) -> None:
    cloud.faults.add(Fault("create", "lose_answer", times=OFTEN))
    with pytest.raises(Exception, match=r"[Cc]onnection lost"):
        await create()
    assert len(cloud.sandboxes()) == 1
    cloud.faults.clear()
    await terminate_all(app, client)


async def test_a_cancelled_create_leaves_a_sandbox(
    cloud: ModalEmulator, create: Create, app: Any, client: Any
) -> None:
    creating = asyncio.create_task(create())
    while not cloud.sandboxes():
        await asyncio.sleep(0.01)
    creating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await creating
    await terminate_all(app, client)
    assert not cloud.sandboxes()


async def test_a_lost_answer_does_not_start_or_write_twice(
    cloud: ModalEmulator, create: Create
) -> None:
    sandbox = await create()
    await sh(sandbox, "true")
    cloud.faults.add(Fault("start", "lose_answer"))
    cloud.faults.add(Fault("input", "lose_answer"))
    assert await sh(sandbox, "echo x >> /count; cat; cat /count", stdin=b"once\n") == "once\nx\n"


@pytest.mark.parametrize("after", [0, 1, 100_000])
async def test_output_that_is_cut_goes_on_where_it_was(
    cloud: ModalEmulator, create: Create, after: int
) -> None:
    sandbox = await create()
    cloud.faults.add(Fault("output", "cut", times=3, after=after))
    said = await sh(sandbox, "seq 1 100000")
    assert said.split() == [str(number) for number in range(1, 100_001)]


@pytest.mark.slow
async def test_output_that_is_always_cut_fails(cloud: ModalEmulator, create: Create) -> None:
    sandbox = await create()
    process = await sandbox.exec.aio("echo", "x", text=False)
    cloud.faults.add(Fault("output", "cut", times=OFTEN))
    with pytest.raises(Exception, match=r"[Cc]onnection lost"):
        await process.stdout.read.aio()


async def test_output_that_stalls(cloud: ModalEmulator, create: Create) -> None:
    sandbox = await create()
    cloud.faults.add(Fault("output", "stall", after=3))
    process = await sandbox.exec.aio("echo", "abcdef", text=False)
    output = aiter(process.stdout)
    assert await anext(output) == b"abc"
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await anext(output)


async def test_dropped_connections_lose_nothing(cloud: ModalEmulator, create: Create) -> None:
    sandbox = await create()
    process = await sandbox.exec.aio("cat", text=False)
    output = aiter(process.stdout)
    for number in range(10):
        process.stdin.write(b"%d\n" % number)
        await process.stdin.drain.aio()
        cloud.drop_connections()
        assert await anext(output) == b"%d\n" % number
    process.stdin.write_eof()
    await process.stdin.drain.aio()
    assert await process.wait.aio() == 0


async def test_a_sandbox_that_is_ended_from_outside(cloud: ModalEmulator, create: Create) -> None:
    sandbox = await create()
    cloud.end_now(sandbox.object_id)
    assert not cloud.sandboxes()
    with pytest.raises(modal.exception.NotFoundError):
        await sandbox.exec.aio("true")
    with pytest.raises(modal.exception.SandboxTimeoutError):
        await sandbox.wait.aio()


async def test_calls_are_counted_and_sandboxes_can_be_looked_at(
    cloud: ModalEmulator, create: Create
) -> None:
    cloud.faults.clear()
    sandbox = await create(cpu=(0.5, 1.0), tags={"a": "b"}, timeout=77)
    assert cloud.faults.calls["create"] == 1
    asked = cloud.sandbox(sandbox.object_id)
    assert asked.tags == {"a": "b"}
    assert asked.definition.timeout_secs == 77
    assert asked.definition.network_access.network_access_type == api.NetworkAccess.BLOCKED


async def test_starting_and_stopping(engine: str) -> None:
    for _ in range(3):
        with ModalEmulator(engine) as emulator:
            assert emulator.url.startswith("http://127.0.0.1:")


async def terminate_all(app: Any, client: Any) -> None:
    async for sandbox in modal.Sandbox.list.aio(app_id=app.app_id, client=client):
        await sandbox.terminate.aio()
