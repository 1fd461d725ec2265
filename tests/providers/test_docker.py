"""The five verbs on a real engine, and the hardening as it is seen from inside."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from typing import Any

import anyio
import pytest

from sandboxkit.errors import ConnectionLostError, SandboxDiedError, SandboxNotFoundError
from sandboxkit.guest import CONNECT, MAIN, bundle
from sandboxkit.guest.wire import GREETING
from sandboxkit.providers.base import Command
from sandboxkit.providers.docker import DockerProvider
from sandboxkit.providers.docker.handle import DockerHandle
from sandboxkit.spec import KEY_LABEL, OWNER_LABEL
from tests.providers.conftest import MakeSpec, found, run, until_gone

GIB = 1024**3


def status_fields(status: str) -> dict[str, str]:
    return dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)


async def test_a_users_process_has_no_privilege_and_can_gain_none(sandbox: DockerHandle) -> None:
    status = status_fields(await run(sandbox, "cat", "/proc/self/status"))
    assert status["Uid"].split() == ["1000"] * 4
    assert status["Gid"].split() == ["1000"] * 4
    for capabilities in ("CapEff", "CapPrm", "CapInh", "CapAmb"):
        assert int(status[capabilities], 16) == 0, capabilities
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"


async def test_the_guests_user_can_change_user_and_kill_and_nothing_else(
    sandbox: DockerHandle,
) -> None:
    status = status_fields(await run(sandbox, "cat", "/proc/self/status", user="0"))
    kill, setgid, setuid = 5, 6, 7  # numbers of linux/capability.h
    assert int(status["CapEff"], 16) == 1 << kill | 1 << setgid | 1 << setuid
    assert status["CapBnd"] == status["CapEff"]
    assert status["NoNewPrivs"] == "1"


async def test_the_limits_are_in_the_cgroup(provider: DockerProvider, make_spec: MakeSpec) -> None:
    handle = await provider.create(make_spec(cpu=0.5, memory_gib=0.25, pids=77))
    try:
        script = """
            cd /sys/fs/cgroup
            if [ -e memory.max ]; then cat memory.max memory.swap.max pids.max cpu.max
            else cat memory/memory.limit_in_bytes memory/memory.memsw.limit_in_bytes \
                pids/pids.max; echo $(cat cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us); fi
        """
        memory, swap, pids, cpu = (await run(handle, "sh", "-c", script)).splitlines()
        assert int(memory) == GIB // 4
        assert int(swap) in {0, GIB // 4}  # version 2 counts swap alone, 1 both together
        assert int(pids) == 77
        quota, period = map(int, cpu.split())
        assert quota / period == 0.5
        effective = handle.info.effective
        assert (effective.cpu, effective.memory_gib, effective.pids) == (0.5, 0.25, 77)
    finally:
        await handle.destroy()


async def test_there_is_no_network_but_loopback(sandbox: DockerHandle) -> None:
    assert (await run(sandbox, "ls", "/sys/class/net")).split() == ["lo"]
    assert sandbox.info.effective.network == "none"


async def test_an_open_network_is_the_engines_own(
    provider: DockerProvider, make_spec: MakeSpec
) -> None:
    handle = await provider.create(make_spec(network="open"))
    try:
        assert "eth0" in (await run(handle, "ls", "/sys/class/net")).split()
    finally:
        await handle.destroy()


async def test_the_engine_was_asked_for_nothing_less(sandbox: DockerHandle, api: Any) -> None:
    container = api.inspect_container(sandbox.info.id)
    host = container["HostConfig"]
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert host["Init"] is True
    assert host["AutoRemove"] is True
    assert host["IpcMode"] == "private"
    assert host["LogConfig"]["Type"] == "none"
    assert not host["Privileged"]
    assert not host["Binds"]
    assert not host["PortBindings"]
    assert container["Config"]["Entrypoint"] == list(MAIN)


async def test_the_environment_of_the_spec_is_not_the_containers(
    provider: DockerProvider, make_spec: MakeSpec
) -> None:
    handle = await provider.create(make_spec(env={"GREETING": "for the channel alone"}))
    try:
        command = Command(argv=("sh", "-c", 'echo "$GREETING|$MORE"'), env={"MORE": "yes"})
        channel = await handle.spawn(command)
        output = await channel.receive()
        await channel.aclose()
        assert output is not None
        assert output.data == b"|yes\n"
    finally:
        await handle.destroy()


async def test_the_first_connector_is_the_main_process_itself(
    sandbox: DockerHandle, api: Any
) -> None:
    async def greeted() -> bool:
        channel = await sandbox.spawn(Command(argv=CONNECT, user="0"))
        try:
            await channel.send(await asyncio.to_thread(bundle, text=False))
            with anyio.fail_after(30):
                output = await channel.receive()
            return output is not None and output.data.startswith(GREETING)
        finally:
            await channel.aclose()

    assert await greeted()
    assert not api.inspect_container(sandbox.info.id)["ExecIDs"]
    assert await greeted()  # another connector, for the next host


async def test_a_killed_host_that_never_connected_leaves_nothing(
    engine: str, provider: DockerProvider, make_spec: MakeSpec
) -> None:
    spec = make_spec()
    script = """
import asyncio, json, sys
from sandboxkit.providers.docker import DockerProvider
from sandboxkit.spec import SandboxSpec
async def main():
    spec = SandboxSpec.checked({"labels": json.loads(sys.argv[2])})
    handle = await DockerProvider(host=sys.argv[1]).create(spec)
    print(handle.info.id, flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""
    argv = [sys.executable, "-c", script, engine, json.dumps(dict(spec.labels))]
    async with await anyio.open_process(argv, stdout=subprocess.PIPE, stderr=None) as host:
        assert host.stdout is not None
        with anyio.fail_after(60):
            made = (await host.stdout.receive()).decode().strip()
        assert await found(provider, spec) == [made]
        host.kill()
        await host.wait()
    await until_gone(provider, spec)


async def test_attach_takes_up_what_create_made(
    engine: str, provider: DockerProvider, make_spec: MakeSpec
) -> None:
    handle = await provider.create(make_spec(labels={"team": "blue"}, user="1234"))
    other = DockerProvider(host=engine)
    try:
        again = await other.attach(handle.info.id)
        assert again.info.id == handle.info.id
        assert again.info.effective == handle.info.effective
        assert again.info.differences == handle.info.differences
        assert again.info.labels == handle.info.labels
        assert again.info.state == "running"
        assert (await run(again, "id", "-u")).strip() == "1234"
    finally:
        await handle.destroy()
        await other.aclose()


async def test_attach_refuses_what_is_not_a_living_sandbox(
    provider: DockerProvider, sandbox: DockerHandle, api: Any
) -> None:
    image = api.inspect_container(sandbox.info.id)["Image"]
    foreign = api.create_container_from_config({"Image": image, "Cmd": ["true"]}, None)["Id"]
    labels = {OWNER_LABEL: "test", KEY_LABEL: "stopped"}
    config = {"Image": image, "Cmd": ["true"], "Labels": labels}
    stopped = api.create_container_from_config(config, None)["Id"]
    api.start(stopped)
    await asyncio.to_thread(api.wait, stopped)
    try:
        with pytest.raises(SandboxNotFoundError, match="not made by sandboxkit"):
            await provider.attach(foreign)
        with pytest.raises(SandboxNotFoundError, match="has ended"):
            await provider.attach(stopped)
        with pytest.raises(SandboxNotFoundError, match="no sandbox of this id"):
            await provider.attach("0123456789ab")
        listed = {info.id: info.state async for info in provider.list({KEY_LABEL: "stopped"})}
        assert listed == {stopped[:12]: "stopped"}
    finally:
        for container in (foreign, stopped):
            api.remove_container(container, force=True)


async def test_what_a_killed_host_has_created_and_never_started_can_be_removed(
    provider: DockerProvider, sandbox: DockerHandle, api: Any
) -> None:
    image = api.inspect_container(sandbox.info.id)["Image"]
    labels = {OWNER_LABEL: "test", KEY_LABEL: "never-started"}
    config = {"Image": image, "Cmd": ["true"], "Labels": labels}
    created = api.create_container_from_config(config, None)["Id"][:12]
    handle = await provider.attach(created)
    assert handle.info.state == "creating"
    await handle.destroy()
    assert created not in {info.id async for info in provider.list({})}


async def test_list_finds_by_all_labels(provider: DockerProvider, make_spec: MakeSpec) -> None:
    specs = [make_spec(labels={"team": "red", "shard": str(n)}) for n in range(3)]
    handles = await asyncio.gather(*(provider.create(spec) for spec in specs))
    try:
        mine = {OWNER_LABEL: specs[0].labels[OWNER_LABEL]}
        infos = [info async for info in provider.list({**mine, "team": "red"})]
        assert {info.id for info in infos} == {handle.info.id for handle in handles}
        assert all(info.state == "running" and info.created_at for info in infos)
        one = [info async for info in provider.list({**mine, "shard": "2"})]
        assert [info.id for info in one] == [handles[2].info.id]
        assert one[0].effective == handles[2].info.effective
        assert not [info async for info in provider.list({**mine, "team": "blue"})]
    finally:
        await asyncio.gather(*(handle.destroy() for handle in handles))


async def test_destroy_twice_at_once_and_after_a_removal_by_others(
    provider: DockerProvider, make_spec: MakeSpec, api: Any
) -> None:
    spec = make_spec()
    handle = await provider.create(spec)
    again = await provider.attach(handle.info.id)

    async def destroyed(one: DockerHandle) -> None:
        await one.destroy()
        assert await found(provider, spec) == []  # gone, not only going

    await asyncio.gather(*(destroyed(one) for one in (handle, again) * 4))
    await handle.destroy()

    gone = await provider.create(make_spec())
    api.remove_container(gone.info.id, force=True)
    await gone.destroy()


@pytest.mark.parametrize("moved_s", [0.0, 30 * 86_400.0, -30 * 86_400.0])
async def test_a_dead_container_says_why(
    provider: DockerProvider,
    make_spec: MakeSpec,
    monkeypatch: pytest.MonkeyPatch,
    moved_s: float,
) -> None:
    """Whatever the clock of this machine says."""
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + moved_s)
    handle = await provider.create(make_spec())
    other = await provider.attach(handle.info.id)
    await other.destroy()
    with pytest.raises(SandboxDiedError) as raised:
        await handle.spawn(Command(argv=("true",)))
    assert raised.value.code == "killed"
    assert raised.value.sandbox_id == handle.info.id
    await handle.destroy()


@pytest.mark.timeout(240)  # the kernel may look for memory for a minute before it kills
async def test_a_container_that_ran_out_of_memory_says_so(
    provider: DockerProvider, make_spec: MakeSpec
) -> None:
    spec = make_spec(memory_gib=0.0625)
    handle = await provider.create(spec)
    try:
        main = await handle.spawn(Command(argv=CONNECT, user="0"))

        async def one_endless_line() -> None:  # the main process keeps all of it
            while True:
                await main.send(b"A" * 1024 * 1024)

        with anyio.fail_after(200), pytest.raises(ConnectionLostError):
            await one_endless_line()
        await main.aclose()
        await until_gone(provider, spec)
        with pytest.raises(SandboxDiedError) as raised:
            await handle.spawn(Command(argv=("true",)))
        assert raised.value.code == "oom"
    finally:
        await handle.destroy()
