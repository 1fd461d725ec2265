"""A pool on every backend: what a claim gives, to one owner, and nothing of another's."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

import sandboxkit as sk
from sandboxkit.testing import ScriptedModel, call, say
from tests.agents.messages_agent import agent
from tests.clouds.conftest import Backend
from tests.clouds.test_network import FETCH
from tests.gateway.world import PUBLIC, Certificates, Origin, World

pytestmark = pytest.mark.timeout(300)  # the first sandbox of a cloud may build its image

# Files, a process and an environment; then, what can be seen of those.
USE = """
echo "$SHARED $MINE"; cat in/a.txt
touch left /tmp/left ~/left
setsid sleep 4242 > /dev/null 2>&1 &
"""
LOOK = r"""
env | grep -c MINE
ls -d left in /tmp/left ~/left 2> /dev/null
cat /proc/[0-9]*/cmdline 2> /dev/null | tr '\0' '\n' | grep -x '[4]242'
echo "$SHARED"
"""


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


@pytest.fixture
def origin(certificates: Certificates) -> Iterator[Origin]:
    origin = Origin(certificates.server("api.example.com"))
    yield origin
    origin.close()


async def test_what_is_given_at_a_claim_is_of_one_owner(backend: Backend) -> None:
    async with sk.Pool(backend.name, size=2, env={"SHARED": "1"}) as pool:
        await pool.filled()
        waiting = await backend.alive()
        assert len(waiting) == 2
        first = await pool.claim(env={"MINE": "2"}, files={"in/a.txt": "text\n", "b": b"\0"})
        assert first.id in waiting
        assert (await first.sh(USE, check=True)).text == "1 2\ntext\n"
        assert await first.files.read("b") == b"\0"
        assert (await first.sh(LOOK)).text.splitlines()[-2] == "4242"
        async with pool.claim() as beside:
            assert beside.id != first.id
            assert (await beside.sh(LOOK)).text == "0\n1\n"
        await first.destroy()
        assert first.id not in await backend.alive()
        for _ in range(2):
            async with pool.claim() as later:
                assert (await later.sh(LOOK)).text == "0\n1\n"
    assert await backend.alive() == set()


async def test_nine_claims_at_once_on_three_machines(backend: Backend) -> None:
    owners: list[str] = []

    async def claim(pool: sk.Pool, number: int) -> None:
        async with pool.claim(env={"MINE": str(number)}) as sandbox:
            owners.append(sandbox.id)
            done = await sandbox.sh("ls -A mine; touch mine; echo $MINE")
            assert done.text == f"{number}\n"

    async with sk.Pool(backend.name, size=3) as pool:
        await pool.filled()
        await asyncio.gather(*(claim(pool, number) for number in range(9)))
        assert len(set(owners)) == len(owners) == 9
    assert await backend.alive() == set()


async def test_hosts_and_a_secret_of_a_claim(
    backend: Backend, origin: Origin, certificates: Certificates
) -> None:
    world = World({"api.example.com": [PUBLIC]}, {(PUBLIC, 443): origin.port})
    gateway = sk.Gateway(resolve=world.resolve, dial=world.dial, trust=certificates.trust())
    url = "https://api.example.com/"
    async with sk.Pool(backend.name, size=1, gateway=gateway) as pool:
        async with pool.claim(
            network=sk.NetworkPolicy.allow(["api.example.com"]),
            secrets=[sk.Secret("API_KEY", "the-value", hosts=["api.example.com"])],
        ) as mine:
            done = await mine.exec(["python3", "-c", FETCH, url], timeout_s=60)
            assert done.check().text == "200 hello from api.example.com\n"
            assert origin.seen[0].headers["X-Key"] == "the-value"
            assert "the-value" not in (await mine.sh("env")).text
        async with pool.claim() as other:
            done = await other.exec(["python3", "-c", FETCH, url], timeout_s=60)
            assert done.check().text.startswith("no answer:")
            assert "API_KEY" not in (await other.sh("env")).text
    assert len(origin.seen) == 1
    assert await backend.alive() == set()


async def test_a_dead_machine_is_not_given(backend: Backend) -> None:
    async with sk.Pool(backend.name, size=1) as pool:
        await pool.filled()
        (dead,) = await backend.alive()
        await (await sk.Sandbox.attach(backend.name, dead)).destroy()
        async with pool.claim() as sandbox:
            assert sandbox.id != dead
            assert (await sandbox.exec(["true"])).exit_code == 0
    assert await backend.alive() == set()


async def test_a_session_on_a_machine_of_a_pool(backend: Backend) -> None:
    model = ScriptedModel([call("bash", command="echo $WHO > who"), say("Done.")])
    async with model, sk.Pool(backend.name, size=1) as pool:
        await pool.filled()
        (ready,) = await backend.alive()
        async with sk.Session(pool, agent=agent(model), env={"WHO": "me"}) as session:
            assert session.sandbox.id == ready
            assert (await session.run("Who?")).text == "Done."
            assert await session.sandbox.files.read_text("who") == "me\n"
    assert await backend.alive() == set()
