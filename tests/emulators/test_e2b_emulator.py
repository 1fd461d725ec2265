"""The emulated E2B, driven by the unmodified SDK: what works, what is refused, what breaks."""

from __future__ import annotations

import asyncio
import base64
import os
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from e2b import (
    AsyncSandbox,
    AsyncTemplate,
    AuthenticationException,
    BuildException,
    CommandExitException,
    InvalidArgumentException,
    NotFoundException,
    RateLimitException,
    SandboxException,
    SandboxNotFoundException,
    SandboxNotRunningException,
    SandboxQuery,
    SandboxState,
    TimeoutException,
)

from tests.emulators.e2b import E2BEmulator
from tests.emulators.faults import Fault

Create = Callable[..., Awaitable[AsyncSandbox]]
PATIENCE_S = 20.0


@pytest.fixture(autouse=True)
def _no_faults_are_left(e2b: E2BEmulator) -> None:
    e2b.faults.clear()


@pytest.fixture
async def create(e2b: E2BEmulator) -> AsyncIterator[Create]:
    made: list[AsyncSandbox] = []

    async def create(template: str | None = None, **options: Any) -> AsyncSandbox:
        options = {"timeout": 120, "allow_internet_access": False, **options}
        made.append(await AsyncSandbox.create(template, **options))
        return made[-1]

    yield create
    e2b.faults.clear()
    for sandbox in made:
        await sandbox.kill()


@pytest.fixture
async def sandbox(create: Create) -> AsyncSandbox:
    return await create()


async def run(sandbox: Any, command: str, **options: Any) -> str:
    return str((await sandbox.commands.run(command, timeout=0, **options)).stdout)


async def listed(**query: Any) -> list[str]:
    pages = AsyncSandbox.list(query=SandboxQuery(**query))
    found: list[str] = []
    while pages.has_next:
        found += [info.sandbox_id for info in await pages.next_items()]
    return found


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not await true():
            await asyncio.sleep(0.05)


# sandboxes


async def test_a_sandbox_is_as_it_was_asked_for(sandbox: AsyncSandbox) -> None:
    info = await sandbox.get_info()
    assert (info.template_id, info.state) == ("base", SandboxState.RUNNING)
    assert (info.cpu_count, info.memory_mb) == (2, 512)
    assert (info.end_at - info.started_at).total_seconds() == pytest.approx(120, abs=30)
    assert await run(sandbox, "id -un; pwd") == "user\n/home/user\n"
    assert await run(sandbox, "id -un; echo $HOME", user="root") == "root\n/root\n"


async def test_it_is_listed_by_its_metadata(create: Create) -> None:
    mark = {"a name": "x&y=z/ü", "run": uuid.uuid4().hex}
    one, other = await create(metadata=mark), await create(metadata={**mark, "more": "1"})
    assert set(await listed(metadata=mark)) == {one.sandbox_id, other.sandbox_id}
    assert await listed(metadata={"more": "1", **mark}) == [other.sandbox_id]
    assert await listed(metadata={"run": "another"}) == []
    assert await listed(metadata=mark, state=[SandboxState.PAUSED]) == []


async def test_a_long_list_comes_in_pages(create: Create) -> None:
    mark = {"run": uuid.uuid4().hex}
    made = {(await create(metadata=mark)).sandbox_id for _ in range(3)}
    pages = AsyncSandbox.list(query=SandboxQuery(metadata=mark), limit=2)
    first = await pages.next_items()
    assert (len(first), pages.has_next) == (2, True)
    second = await pages.next_items()
    assert not pages.has_next
    assert {info.sandbox_id for info in first + second} == made


async def test_a_killed_sandbox_is_gone(e2b: E2BEmulator, sandbox: AsyncSandbox) -> None:
    assert await sandbox.kill()
    assert not await sandbox.kill()
    assert sandbox.sandbox_id not in e2b.sandboxes()
    with pytest.raises(SandboxNotFoundException):
        await sandbox.get_info()
    with pytest.raises(SandboxNotFoundException):
        await AsyncSandbox.connect(sandbox.sandbox_id)
    with pytest.raises(SandboxNotFoundException):
        await sandbox.set_timeout(10)
    with pytest.raises(SandboxNotRunningException):
        await run(sandbox, "true")


async def test_it_expires_by_itself(e2b: E2BEmulator, create: Create) -> None:
    sandbox = await create(timeout=100)
    await sandbox.set_timeout(1)

    async def gone() -> bool:
        return sandbox.sandbox_id not in e2b.sandboxes()

    await until(gone)


async def test_it_pauses_by_itself(create: Create) -> None:
    sandbox = await create(lifecycle={"on_timeout": "pause"})
    await run(sandbox, "echo kept > kept")
    await sandbox.set_timeout(1)

    async def paused() -> bool:
        return (await sandbox.get_info()).state == SandboxState.PAUSED

    await until(paused)
    await sandbox.connect(timeout=100)
    assert await run(sandbox, "cat kept") == "kept\n"


async def test_connecting_never_shortens_a_life(sandbox: AsyncSandbox) -> None:
    before = (await sandbox.get_info()).end_at
    await AsyncSandbox.connect(sandbox.sandbox_id, timeout=1)
    assert (await sandbox.get_info()).end_at == before
    await AsyncSandbox.connect(sandbox.sandbox_id, timeout=600)
    assert (await sandbox.get_info()).end_at > before


async def test_a_pause_ends_the_streams_and_not_the_programs(sandbox: AsyncSandbox) -> None:
    program = await sandbox.commands.run("exec cat", background=True, stdin=True, timeout=0)
    assert await sandbox.pause()
    assert not await sandbox.pause()
    with pytest.raises(SandboxNotRunningException):
        await program.wait()
    with pytest.raises(SandboxNotFoundException):
        await sandbox.set_timeout(10)
    assert (await sandbox.get_info()).state == SandboxState.PAUSED
    await sandbox.connect()
    again = await sandbox.commands.connect(program.pid, timeout=0)
    await again.send_stdin("on it goes\n")
    await again.close_stdin()
    assert (await again.wait()).stdout == "on it goes\n"


async def test_while_it_pauses_it_can_be_neither_renewed_nor_kept(
    e2b: E2BEmulator, sandbox: AsyncSandbox
) -> None:
    e2b.faults.add(Fault("pause", "delay", seconds=1.0))
    pausing = asyncio.create_task(sandbox.pause())

    async def asked() -> bool:
        return (await sandbox.get_info()).state == SandboxState.PAUSED

    await until(asked)
    with pytest.raises(SandboxException, match=r"^409"):
        await sandbox.set_timeout(60)
    with pytest.raises(SandboxException, match=r"^409"):
        await sandbox.create_snapshot()
    assert await pausing


async def test_the_plan_has_limits(
    e2b: E2BEmulator, sandbox: AsyncSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SandboxException, match="400: Timeout cannot be greater than 24 hours"):
        await AsyncSandbox.create(timeout=24 * 3600 + 1)
    await sandbox.set_timeout(48 * 3600)
    info = await sandbox.get_info()
    assert (info.end_at - info.started_at).total_seconds() < 25 * 3600
    monkeypatch.setattr(e2b.account, "max_sandboxes", 0)
    with pytest.raises(RateLimitException, match="maximum number of concurrent"):
        await AsyncSandbox.create(retries=0)


async def test_a_key_creates_once(create: Create) -> None:
    key = uuid.uuid4().hex
    one = await create(idempotency_key=key)
    assert (await create(idempotency_key=key)).sandbox_id == one.sandbox_id
    with pytest.raises(SandboxException, match=r"^422"):
        await create(idempotency_key=key, timeout=77)


async def test_what_is_wrong_is_refused(create: Create) -> None:
    with pytest.raises(AuthenticationException):
        await create(api_key="e2b_wrong")
    with pytest.raises(SandboxException, match="404: template 'unheard-of' not found"):
        await create("unheard-of")


@pytest.mark.parametrize(
    ("network", "said"),
    [
        ({"allow_out": ["example.com"]}, "you must include 'ALL_TRAFFIC' in deny out"),
        ({"deny_out": ["example.com"]}, "invalid denied CIDR example.com"),
        ({"deny_out": ["0.0.0.0"]}, "invalid denied CIDR"),
        ({"deny_out": ["0.0.0.0/0"], "allow_out": ["no name"]}, "invalid allowed address"),
    ],
)
async def test_network_rules_that_make_no_sense_are_refused(
    create: Create, network: Any, said: str
) -> None:
    with pytest.raises(SandboxException, match=said):
        await create(network=network)


async def test_network_rules_that_make_sense_are_taken(create: Create) -> None:
    rules: Any = {"deny_out": ["0.0.0.0/0"], "allow_out": ["*.example.com", "8.8.8.8"]}
    sandbox = await create(allow_internet_access=None, network=rules)
    assert (await run(sandbox, "ls /sys/class/net")).split() == ["lo"]


# programs


async def test_output_comes_in_pieces_and_streams_apart(sandbox: AsyncSandbox) -> None:
    pieces: list[str] = []
    command = "head -c 200000 /dev/zero | tr '\\0' x; echo low >&2; exit 3"
    with pytest.raises(CommandExitException) as caught:
        await run(sandbox, command, on_stdout=pieces.append)
    assert (caught.value.exit_code, caught.value.stderr) == (3, "low\n")
    assert sum(map(len, pieces)) == 200_000
    assert max(map(len, pieces)) <= 32 * 1024


async def test_input_is_streamed_in_order(sandbox: AsyncSandbox) -> None:
    program = await sandbox.commands.run("exec cat", background=True, stdin=True, timeout=0)
    stream = sandbox.commands.stream_input(program.pid, timeout=0)
    lines = [f"{number} {'x' * 1000}\n" for number in range(500)]
    for line in lines:
        await stream.send(line)
    await stream.close()
    await program.close_stdin()
    assert (await program.wait()).stdout == "".join(lines)


async def test_without_stdin_there_is_none(sandbox: AsyncSandbox) -> None:
    assert await run(sandbox, "cat; echo end") == "end\n"
    program = await sandbox.commands.run("exec sleep 60", background=True, timeout=0)
    with pytest.raises(SandboxException, match="stdin not enabled or closed"):
        await program.send_stdin("x")
    assert await program.kill()


async def test_what_nobody_hears_is_lost(sandbox: AsyncSandbox) -> None:
    flood = "head -c 8000000 /dev/zero | tr '\\0' x"  # more than waits for a subscriber
    command = f"read go; {flood}; touch /tmp/said; read go; echo heard"
    program = await sandbox.commands.run(command, background=True, stdin=True, timeout=0)
    await program.disconnect()
    await sandbox.commands.send_stdin(program.pid, "\n")
    await run(sandbox, "until [ -e /tmp/said ]; do sleep 0.05; done")
    again = await sandbox.commands.connect(program.pid, timeout=0)
    await again.send_stdin("\n")
    assert (await again.wait()).stdout == "heard\n"


async def test_an_ended_program_keeps_its_exit_code_and_takes_no_input(
    sandbox: AsyncSandbox,
) -> None:
    program = await sandbox.commands.run("exit 7", background=True, stdin=True, timeout=0)
    with pytest.raises(CommandExitException):
        await program.wait()
    with pytest.raises(CommandExitException) as caught:
        await (await sandbox.commands.connect(program.pid, timeout=0)).wait()
    assert caught.value.exit_code == 7
    with pytest.raises(NotFoundException):
        await program.send_stdin("x")
    assert not await program.kill()
    with pytest.raises(NotFoundException):
        await sandbox.commands.connect(99_999, timeout=0)


async def test_a_kill_is_for_one_process(sandbox: AsyncSandbox) -> None:
    program = await sandbox.commands.run("sleep 71; true", background=True, timeout=0)
    others = await sandbox.commands.run("exec sleep 72", background=True, timeout=0)
    running = {process.pid for process in await sandbox.commands.list()}
    assert running == {program.pid, others.pid}
    assert await program.kill()
    with pytest.raises(CommandExitException) as caught:
        await program.wait()
    assert (caught.value.exit_code, caught.value.error) == (-1, "signal: killed")
    assert await others.kill()
    left = await run(sandbox, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
    assert "sleep 71" in left
    assert "sleep 72" not in left


async def test_the_time_out_of_a_stream_kills_the_program(sandbox: AsyncSandbox) -> None:
    program = await sandbox.commands.run(
        "echo $$ > /tmp/pid; exec sleep 60", background=True, timeout=1
    )

    async def ended() -> bool:
        return all(process.pid != program.pid for process in await sandbox.commands.list())

    await until(ended)
    with pytest.raises((TimeoutException, CommandExitException)):
        await program.wait()


async def test_users_and_directories_must_exist(sandbox: AsyncSandbox) -> None:
    with pytest.raises(AuthenticationException, match="invalid username: 'nobody-here'"):
        await run(sandbox, "true", user="nobody-here")
    with pytest.raises(InvalidArgumentException, match="cwd '/nowhere' does not exist"):
        await run(sandbox, "true", cwd="/nowhere")


async def test_the_daemon_lets_nobody_in_without_the_token(
    e2b: E2BEmulator, sandbox: AsyncSandbox
) -> None:
    headers = {
        "E2b-Sandbox-Id": sandbox.sandbox_id,
        "E2b-Sandbox-Port": "49983",
        "Authorization": "Basic " + base64.b64encode(b"user:").decode(),
    }
    async with httpx.AsyncClient(base_url=e2b.url, headers=headers) as client:
        refused = await client.post("/process.Process/List", json={})
        assert refused.status_code == 401
        assert (await client.get("/health")).status_code == 204


# ports


async def test_a_closed_port_needs_the_token(e2b: E2BEmulator, create: Create) -> None:
    sandbox = await create(network={"allow_public_traffic": False})
    await run(sandbox, "echo served > file")
    serve = "exec python3 -m http.server 8000"
    await sandbox.commands.run(serve, background=True, timeout=0)
    token = {"e2b-traffic-access-token": sandbox.traffic_access_token or ""}

    async def get(headers: dict[str, str], port: int = 8000) -> httpx.Response:
        place = {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": str(port)}
        async with httpx.AsyncClient(base_url=e2b.url) as client:
            return await client.get("/file", headers={**place, **headers})

    async def serves() -> bool:
        return (await get(token)).status_code == 200

    await until(serves)
    assert (await get(token)).text == "served\n"
    assert (await get({})).status_code == 403
    assert (await get({"e2b-traffic-access-token": "wrong"})).status_code == 403
    assert (await get(token, port=8001)).status_code == 502


# snapshots and templates


async def test_a_snapshot_outlives_its_sandbox(create: Create) -> None:
    sandbox = await create()
    await run(sandbox, "echo kept > kept")
    name = f"kept-{uuid.uuid4().hex[:8]}"
    snapshot = await sandbox.create_snapshot(name=name)
    try:
        pages = AsyncSandbox.list_snapshots(sandbox_id=sandbox.sandbox_id)
        assert [found.snapshot_id for found in await pages.next_items()] == [snapshot.snapshot_id]
        await sandbox.kill()
        assert await run(await create(snapshot.snapshot_id), "cat kept") == "kept\n"
    finally:
        assert await AsyncSandbox.delete_snapshot(snapshot.snapshot_id)
    assert not await AsyncSandbox.delete_snapshot(snapshot.snapshot_id)
    with pytest.raises(SandboxException, match=r"^404"):
        await create(snapshot.snapshot_id)


async def test_a_template_is_built_step_by_step(create: Create, tmp_path: Path) -> None:
    (tmp_path / "tool").write_bytes(os.urandom(100_000))
    (tmp_path / "tree" / "deep").mkdir(parents=True)
    (tmp_path / "tree" / "deep" / "leaf").write_text("leaf")
    name, logs = f"built-{uuid.uuid4().hex[:8]}", list[str]()
    template = (
        AsyncTemplate(file_context_path=tmp_path)
        .from_image("python:3.12-slim")
        .copy("tool", "/opt/tools/tool", user="root", mode=0o755)
        .copy("tree", "/opt/tree")
        .run_cmd("echo noise; id -un > ~/who")
        .run_cmd("touch /etc/made", user="root")
        .set_envs({"SHAPE": "round"})
        .set_workdir("/srv/place")
    )
    built = await AsyncTemplate.build(
        template, name, cpu_count=1, memory_mb=256, on_build_logs=lambda e: logs.append(e.message)
    )
    try:
        assert "noise" in logs
        assert await AsyncTemplate.exists(name)
        sandbox = await create(name)
        info = await sandbox.get_info()
        assert (info.cpu_count, info.memory_mb, info.name) == (1, 256, name)
        look = "stat -c '%a %U %s' /opt/tools/tool; cat /opt/tree/deep/leaf ~/who; ls /etc/made"
        assert await run(sandbox, look) == "755 root 100000\nleafuser\n/etc/made\n"
        assert await run(sandbox, "echo $SHAPE $PWD") == "round /srv/place\n"
    finally:
        assert await AsyncSandbox.delete_snapshot(built.template_id)
    assert not await AsyncTemplate.exists(name)


@pytest.mark.parametrize(
    ("image", "command", "said"),
    [
        ("python:no-such-image", "true", "image 'python:no-such-image' not found"),
        ("someone/private:1", "true", "image 'someone/private:1' not found"),
        ("python:3.12", "echo woe >&2; exit 4", "exit status 4: woe"),
    ],
)
async def test_a_build_that_fails_says_why(
    create: Create, image: str, command: str, said: str
) -> None:
    name = f"failed-{uuid.uuid4().hex[:8]}"
    template = AsyncTemplate().from_image(image).run_cmd(command)
    with pytest.raises(BuildException, match=said):
        await AsyncTemplate.build(template, name)
    with pytest.raises(SandboxException, match=r"^404"):
        await create(name)


@pytest.mark.parametrize(
    "resources", [{"cpu_count": 9}, {"memory_mb": 64}, {"memory_mb": 9000}, {"memory_mb": 513}]
)
async def test_a_template_has_bounds(resources: Any) -> None:
    template = AsyncTemplate().from_image("python:3.12")
    with pytest.raises(BuildException, match=r"^400"):
        await AsyncTemplate.build(template, "too-much", **resources)
