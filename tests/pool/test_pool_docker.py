"""A pool of real machines: what an owner gives, whose time begins at the claim, its agent."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

import sandboxkit as sk
from sandboxkit.errors import InvalidSpecError, SandboxDiedError
from sandboxkit.providers.registry import providers
from sandboxkit.spec import OWNER_LABEL
from sandboxkit.testing import ScriptedModel, call, say
from tests.agents.messages_agent import agent
from tests.leaks import OWNER

pytestmark = pytest.mark.usefixtures("engine")


async def living() -> set[str]:
    provider = providers.make("docker")
    try:
        return {info.id async for info in provider.list({OWNER_LABEL: OWNER})}
    finally:
        await provider.aclose()


async def test_an_owner_gives_its_environment_and_files_and_leaves_nothing() -> None:
    async with sk.Pool("docker", size=1, env={"SHARED": "1"}) as pool:
        async with pool.claim(env={"MINE": "2"}, files={"in/a.txt": "text"}) as first:
            done = await first.sh("echo $SHARED $MINE; cat in/a.txt; id -u; touch /tmp/left ~/left")
            assert done.check().text == "1 2\ntext1000\n"
            process = await first.spawn(["sh", "-c", "echo $MINE"], pty=True)
            async with process:
                assert await process.stdout.read() == b"2\r\n"
            async with sk.Sandbox.attach("docker", first.id) as same:
                assert (await same.sh("echo $MINE")).text == "2\n"
        async with pool.claim() as second:
            done = await second.sh("echo $SHARED$MINE; ls -A /work; ls /tmp/left ~/left")
            assert (done.text, second.id == first.id) == ("1\n", False)
    assert await living() == set()


# What an owner leaves; then, what the next sees of it.
LOOK = r"""
ls -d left /tmp/left ~/left /dev/shm/left 2> /dev/null; echo "$WHO"
cat /proc/[0-9]*/cmdline 2> /dev/null | tr '\0' '\n' | grep -x '[4]242'
touch left /tmp/left ~/left /dev/shm/left; setsid sleep 4242 > /dev/null 2>&1 &
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_a_hundred_claims_at_once_on_ten_machines() -> None:
    owners: list[str] = []

    async def claim(pool: sk.Pool, number: int) -> None:
        async with pool.claim(env={"WHO": str(number)}, wait_s=500) as sandbox:
            owners.append(sandbox.id)
            assert (await sandbox.sh(LOOK, check=True)).text == f"{number}\n"
            assert (await sandbox.sh(LOOK)).text.count("left") == 4  # it sees what there is

    async with sk.Pool("docker", size=10) as pool:
        await pool.filled()
        await asyncio.gather(*(claim(pool, number) for number in range(100)))
        assert len(set(owners)) == len(owners) == 100
    assert await living() == set()


async def test_the_time_of_an_owner_begins_with_the_claim() -> None:
    async with sk.Pool("docker", size=1, lifetime_s=4, idle_timeout_s=30) as pool:
        await pool.filled()
        [waiting] = await living()
        await asyncio.sleep(5)  # longer than its whole life
        async with pool.claim() as sandbox:
            assert sandbox.id == waiting
            assert (await sandbox.exec(["true"])).exit_code == 0
            with pytest.raises(SandboxDiedError) as caught:
                await sandbox.exec(["sleep", "60"])
            assert caught.value.code == "expired"
    assert await living() == set()


async def test_the_idle_time_of_an_owner_begins_with_the_claim() -> None:
    async with sk.Pool("docker", size=1, idle_timeout_s=3) as pool:
        await pool.filled()
        [waiting] = await living()
        await asyncio.sleep(4)  # longer than it may be idle
        async with pool.claim() as sandbox:
            assert sandbox.id == waiting
            assert (await sandbox.exec(["sleep", "4"])).exit_code == 0
            async with asyncio.timeout(30):
                while sandbox.id in await living():
                    await asyncio.sleep(0.1)
            with pytest.raises(SandboxDiedError) as caught:
                await sandbox.exec(["true"])
            assert caught.value.code == "idle"


async def test_a_container_that_is_removed_from_outside_is_replaced() -> None:
    async with sk.Pool("docker", size=1) as pool:
        await pool.filled()
        [dead] = await living()
        other = await sk.Sandbox.attach("docker", dead)
        await other.destroy()
        async with pool.claim() as sandbox:
            assert sandbox.id != dead
            assert (await sandbox.exec(["true"])).exit_code == 0
    assert await living() == set()


async def test_a_pool_that_is_cancelled_while_it_fills_leaves_nothing() -> None:
    async def use() -> None:
        async with sk.Pool("docker", size=3) as pool:
            await pool.filled()
            await pool.claim()
            await asyncio.sleep(60)

    for pause_s in (0.05, 0.3, 1.5):
        task = asyncio.create_task(use())
        await asyncio.wait({task}, timeout=pause_s)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert await living() == set()


async def test_an_agent_on_a_machine_of_a_pool() -> None:
    model = ScriptedModel([call("bash", command="echo $WHO > who"), say("Done.")])
    async with model, sk.Pool("docker", size=1) as pool:
        await pool.filled()
        [ready] = await living()
        async with sk.Session(pool, agent=agent(model), env={"WHO": "me"}) as session:
            assert session.sandbox.id == ready
            assert (await session.run("Who?")).text == "Done."
            assert await session.sandbox.files.read_text("who") == "me\n"
            assert 0 < session.create_s < session.machine.seconds
        assert pool.claimed == 0
    assert await living() == set()


async def test_claude_code_needs_a_pool_that_was_made_for_it() -> None:
    model = ScriptedModel([say("Hello.")])
    async with model:
        claude = sk.ClaudeCode(model_url=model.url)
        async with sk.Pool("docker", size=0) as pool:
            with pytest.raises(InvalidSpecError, match=r"Pool\(\.\.\., agent='claude-code'\)"):
                await sk.Session(pool, agent=claude).__aenter__()
            assert pool.claimed == 0
        async with sk.Pool("docker", size=1, agent=claude) as pool:
            async with sk.Session(pool, agent=claude) as session:
                assert (await session.run("Hello")).text == "Hello."


async def test_a_session_on_a_pool_takes_no_other_field() -> None:
    pool = sk.Pool("docker", size=1)
    fields: list[dict[str, Any]] = [{"image": "debian"}, {"cpu": 2}, {"spec": sk.SandboxSpec()}]
    for field in fields:
        with pytest.raises(InvalidSpecError, match="a Pool was given"):
            sk.Session(pool, agent="messages", **field)
