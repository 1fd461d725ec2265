"""The emulated Modal: sandboxes and their programs, files, lists, tunnels and limits."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from typing import Any

import modal
import modal.exception
import pytest

from tests.emulators.modal import ModalEmulator
from tests.emulators.modal.driving import APP, Create, fetch, run, sh


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
