"""Sandboxes of the emulated Daytona: orders, names, clocks, states."""

from __future__ import annotations

from typing import Any

import aiohttp
import daytona
import pytest
from daytona import (
    AsyncDaytona,
    AsyncSandbox,
    CreateSnapshotParams,
    ListSandboxesQuery,
    SandboxState,
)

from tests.emulators.daytona import DaytonaEmulator
from tests.emulators.daytona.driving import SHARED, Create, Log, eventually, is_gone, run


async def test_a_sandbox_is_what_was_ordered(client: AsyncDaytona, create: Create) -> None:
    made = await create(name="ordered", labels={"a": "1"}, env_vars={"X": "y z"}, ttl_minutes=9)
    found = await client.get("ordered")
    assert found.id == made.id
    assert found.state == SandboxState.STARTED.value
    assert (found.cpu, found.memory, found.disk) == (1, 1, 3)
    assert found.labels["a"] == "1"
    assert found.auto_destroy_at is not None
    assert (found.user, await found.get_user_home_dir()) == ("daytona", "/home/daytona")
    said = await found.process.exec('id -u; id -un; pwd; echo "$HOME $X"')
    assert said.result == "1000\ndaytona\n/home/daytona\n/home/daytona y z\n"


async def test_listing_filters_by_labels_and_turns_pages(
    client: AsyncDaytona, create: Create
) -> None:
    made = {(await create(labels={"set": "one", "n": str(n)})).id for n in range(2)}
    await create(labels={"set": "other"})

    async def ids(**labels: str) -> set[str]:
        query = ListSandboxesQuery(labels=labels, limit=1)
        return {found.id async for found in client.list(query)}

    assert await ids(set="one") == made
    assert len(await ids(set="one", n="1")) == 1
    assert await ids(set="none") == set()


async def test_a_name_is_free_again_only_when_its_sandbox_is_gone(
    client: AsyncDaytona, create: Create
) -> None:
    first = await create(name="unique")
    with pytest.raises(daytona.DaytonaConflictError):
        await create(name="unique")
    await client.delete(first)
    with pytest.raises(daytona.DaytonaConflictError):
        await create(name="unique")
    with pytest.raises(daytona.DaytonaNotFoundError):
        await first.delete()
    await eventually(lambda: is_gone(client, "unique"))
    assert (await create(name="unique")).id != first.id


async def test_without_pushed_states_the_client_still_learns_of_them(
    cloud: DaytonaEmulator, create: Create
) -> None:
    cloud.settings.events = False
    assert (await create()).state == SandboxState.STARTED.value


async def post(cloud: DaytonaEmulator, path: str, body: object) -> tuple[int, Any]:
    """A request that the SDK itself would not send."""
    headers = {"Authorization": f"Bearer {cloud.key}"}
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{cloud.url}/api{path}", json=body, headers=headers) as answer,
    ):
        return answer.status, await answer.json()


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"cpu": 2}, 400),  # resources with a snapshot
        ({"snapshot": "daytona-small", "memory": 2}, 400),
        ({"snapshot": "unknown"}, 400),
        ({"snapshot": "daytona-small", "buildInfo": {"dockerfileContent": "FROM x"}}, 400),
        ({"buildInfo": {}}, 400),
        ({"buildInfo": {"dockerfileContent": "FROM x"}, "cpu": 5}, 403),
        ({"buildInfo": {"dockerfileContent": "FROM x"}, "memory": 9}, 403),
        ({"buildInfo": {"dockerfileContent": "FROM x"}, "disk": 11}, 403),
        ({"buildInfo": {"dockerfileContent": "FROM x"}, "cpu": 0.5}, 400),
        ({"buildInfo": {"dockerfileContent": "FROM x"}, "cpu": 0}, 400),
        ({"ttlMinutes": -1}, 400),
        ({"ttlMinutes": 1.5}, 400),
        ({"autoStopInterval": 5, "autoPauseInterval": 5}, 400),
        ({"autoPauseInterval": 5, "autoStopInterval": 0}, 400),  # of a container
        ({"labels": {"a": 1}}, 400),
        ({"env": {"a": None}}, 400),
        ({"name": ""}, 400),
        ({"target": "moon"}, 404),
        ({"networkAllowList": ",".join(f"10.0.{n}.0/24" for n in range(11))}, 400),
        ({"networkAllowList": "10.0.0.1"}, 400),
        ({"networkAllowList": "fd00::/8"}, 400),
        ({"domainAllowList": ",".join(f"a{n}.example.org" for n in range(11))}, 400),
        ({"domainAllowList": "https://example.org"}, 400),
    ],
)
async def test_an_order_that_the_service_refuses_is_refused(
    cloud: DaytonaEmulator, body: object, status: int
) -> None:
    before = cloud.sandboxes()
    answered, envelope = await post(cloud, "/sandbox", body)
    assert answered == envelope["statusCode"] == status
    assert set(envelope) == {"statusCode", "message", "code", "source"}
    assert cloud.sandboxes() == before


async def test_no_more_cores_than_the_account_has(cloud: DaytonaEmulator, create: Create) -> None:
    cloud.settings.cpu_quota = 0
    with pytest.raises(daytona.DaytonaForbiddenError, match="Total CPU limit"):
        await create()


async def test_a_wrong_key_opens_nothing(
    cloud: DaytonaEmulator, box: AsyncSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYTONA_API_KEY", "dtn_wrong")
    async with AsyncDaytona() as stranger:
        with pytest.raises(daytona.DaytonaAuthenticationError):
            await stranger.get(SHARED)
    for path in ("/toolbox/{}/process/execute", "/api/object-storage/push-access"):
        async with aiohttp.ClientSession() as http:
            url = cloud.url + path.format(box.id)
            async with http.request("POST" if "toolbox" in path else "GET", url) as answer:
                assert answer.status == 401


async def test_a_time_to_live_counts_from_when_it_was_set(
    cloud: DaytonaEmulator, client: AsyncDaytona, create: Create
) -> None:
    kept, left = await create(ttl_minutes=3), await create(ttl_minutes=3)
    await kept.set_ttl(1000)
    cloud.minute_s = 0.1
    await eventually(lambda: is_gone(client, left.id))
    assert (await client.get(kept.id)).state == SandboxState.STARTED.value
    await kept.set_ttl(1)
    await eventually(lambda: is_gone(client, kept.id))


async def test_an_idle_sandbox_is_stopped_unless_its_log_is_read(
    cloud: DaytonaEmulator, client: AsyncDaytona, create: Create
) -> None:
    read = await create(auto_stop_interval=15)
    await read.process.create_session("s")
    command = await run(read, "s", "echo ready; sleep 1000")
    log = Log(read, "s", command.cmd_id)
    await log.until("ready")
    idle = await create(auto_stop_interval=15)  # which was used after the other
    cloud.minute_s = 0.02

    async def is_stopped(sandbox: AsyncSandbox) -> bool:
        await sandbox.refresh_data()
        return sandbox.state == SandboxState.STOPPED.value

    await eventually(lambda: is_stopped(idle))
    assert not await is_stopped(read)
    await log.aclose()
    await eventually(lambda: is_stopped(read))


async def test_an_ephemeral_sandbox_ends_when_it_stops(
    client: AsyncDaytona, create: Create
) -> None:
    sandbox = await create(auto_delete_interval=0)
    await sandbox.stop()
    await eventually(lambda: is_gone(client, sandbox.id))


async def test_a_stop_keeps_the_disk_and_nothing_else(create: Create) -> None:
    sandbox = await create()
    await sandbox.process.create_session("s")
    await sandbox.process.exec("echo kept > file")
    await sandbox.stop()
    assert sandbox.state == SandboxState.STOPPED.value
    with pytest.raises(daytona.DaytonaBadRequestError):
        await sandbox.process.exec("true")
    await sandbox.start()
    assert (await sandbox.process.exec("cat file")).result == "kept\n"
    with pytest.raises(daytona.DaytonaNotFoundError):
        await sandbox.process.get_session("s")


async def test_a_container_cannot_be_paused_and_a_virtual_machine_can(
    client: AsyncDaytona, box: AsyncSandbox, create: Create
) -> None:
    with pytest.raises(daytona.DaytonaBadRequestError, match="not supported"):
        await box.pause()
    params = CreateSnapshotParams(name="vm", image="vm:1", sandbox_class="linux-vm")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    await client.snapshot.create(params)
    sandbox = await create(snapshot="vm")
    await sandbox.process.create_session("s")
    command = await run(sandbox, "s", "read line; echo got $line")
    await sandbox.pause()
    assert sandbox.state == SandboxState.PAUSED.value
    await sandbox.start()
    await sandbox.process.send_session_command_input("s", command.cmd_id, "it")
    log = Log(sandbox, "s", command.cmd_id)
    await log.end()
    assert log.out == "got it\n"
    await client.snapshot.delete("vm")


async def test_the_network_is_what_was_ordered_and_can_be_changed(
    cloud: DaytonaEmulator, create: Create
) -> None:
    async def has_network(sandbox: AsyncSandbox) -> bool:
        said = await sandbox.process.exec("ls /sys/class/net | grep -c '^eth'")
        return said.result != "0\n"

    sandbox = await create(network_block_all=True)
    assert not await has_network(sandbox)
    await sandbox.update_network_settings(network_block_all=False)
    assert await has_network(sandbox)
    cloud.settings.tier = 1
    with pytest.raises(daytona.DaytonaForbiddenError):
        await sandbox.update_network_settings(network_block_all=True)
