"""Four agents in one sandbox attack each other; nothing is gained.

Where that can be, the victim runs the same attack on itself: it shows that the attack is one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import pytest

import sandboxkit as sk
from sandboxkit.errors import PathPermissionError
from sandboxkit.session.sharing import SharedSandbox
from tests.sandbox.attacks import ALL_OF_FILES, FILES, FORKS, GUEST, IDENTITY, INSIDES, PROCESS

NAMES = ("alice", "bob", "carol", "mallory")


@pytest.fixture
async def whole(engine: str) -> AsyncIterator[sk.Sandbox]:
    async with sk.Sandbox.create("docker") as sandbox:
        yield sandbox


@pytest.fixture
async def four(whole: sk.Sandbox) -> AsyncIterator[list[SharedSandbox]]:
    agents = [await SharedSandbox.join(whole, user=name) for name in NAMES]
    yield agents
    for agent in agents:
        await agent.aclose()


async def gained(agent: SharedSandbox, attack: str, *args: object) -> set[str]:
    """What an attack of this agent's has gained."""
    result = await agent.exec(["python3", "-c", attack, *map(str, args)], timeout_s=60)
    return set(result.check().text.splitlines())


async def alive(whole: sk.Sandbox, uid: str) -> list[str]:
    """What runs as a user; what has ended, and is about to be forgotten, does not."""
    lines = (await whole.exec(["ps", "-e", "-o", "uid=,stat=,args="])).check().text.splitlines()
    return [line for line in lines if line.split()[0] == uid and line.split()[1][0] != "Z"]


async def all_lines(agent: SharedSandbox, script: str) -> list[str]:
    return (await agent.sh(script)).check().text.splitlines()


async def test_files_of_an_agent_are_out_of_the_others_reach(four: list[SharedSandbox]) -> None:
    for victim in four:
        place = victim.home.removesuffix("/home")
        await victim.sh(f"mkdir ~/.config; chmod 777 ~ {place}/*")  # careless
        directories = (victim.home, victim.workdir, f"{place}/tmp", f"{victim.home}/.config")
        for directory in directories:
            await victim.files.write(f"{directory}/secret", victim.user, mode=0o666)
        for attacker in four:
            if attacker is victim:
                continue
            assert await gained(attacker, FILES, "secret", place, *directories) == set()
            for path in (f"{victim.home}/secret", f"{victim.home}/new"):
                with pytest.raises(PathPermissionError):
                    await attacker.files.read(path)
                with pytest.raises(PathPermissionError):
                    await attacker.files.write(path, "mine")
            with pytest.raises(PathPermissionError):
                await attacker.files.list(victim.workdir)
        assert await victim.files.read_text(f"{victim.home}/secret") == victim.user
    victim = four[0]
    assert await gained(victim, FILES, "secret", f"{victim.home}/.config") == ALL_OF_FILES


async def test_processes_of_an_agent_are_out_of_the_others_reach(
    four: list[SharedSandbox],
) -> None:
    for victim in four:
        secret = {"TOKEN": f"the-token-of-{victim.user}"}
        process = await victim.spawn(["sleep", "3600"], env=secret)
        for attacker in four:
            if attacker is not victim:
                assert await gained(attacker, PROCESS, process.pid) == set()
                found = await attacker.sh(
                    "cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline | tr '\\0' ' '"
                )
                assert f"the-token-of-{victim.user}" not in found.text
        assert process.exit_code is None
        itself = await gained(victim, PROCESS, process.pid)
        assert {"environ", "mem", "maps", "fd", "cwd", "nice", "limit", "kill"} <= itself
        assert await process.wait() == -9


async def test_what_works_for_all_of_them_shows_none_of_them(
    whole: sk.Sandbox, four: list[SharedSandbox]
) -> None:
    """The guest has the requests of all in its memory, and its children have copies of that."""
    mallory = four[3]
    for agent in four:
        await agent.files.write("x", "x")
        with anyio.fail_after(30):
            while len(await all_lines(agent, "pgrep -u $(id -u) -f '^python3 -I -S'; true")) < 2:
                await anyio.sleep(0.05)
    theirs = await all_lines(mallory, "pgrep -u $(id -u) -f '^python3 -I -S'")
    for pid in theirs:
        assert await gained(mallory, PROCESS, pid) & INSIDES == set()
    others = await all_lines(mallory, "pgrep -f '^python3 -I -S'; echo 1")
    for pid in set(others) - set(theirs):
        assert await gained(mallory, PROCESS, pid) == set()
    assert await gained(mallory, GUEST) == set()
    assert (await whole.exec(["true"])).exit_code == 0


async def test_nobody_becomes_another(four: list[SharedSandbox]) -> None:
    found: dict[str, set[str]] = {}

    async def attack(attacker: SharedSandbox, victim: SharedSandbox) -> None:
        uid = (await victim.exec(["id", "-u"])).text.strip()
        found[attacker.user] = await gained(attacker, IDENTITY, uid, victim.user)
        status = (await attacker.sh("grep -E 'CapPrm|CapEff|NoNewPrivs' /proc/self/status")).text
        assert status.split()[1::2] == ["0" * 16, "0" * 16, "1"]

    async with anyio.create_task_group() as tasks:
        for attacker, victim in zip(four, [*four[1:], four[0]], strict=True):
            tasks.start_soon(attack, attacker, victim)
    assert found == {name: set() for name in NAMES}


async def test_open_directories_give_nothing_away(
    whole: sk.Sandbox, four: list[SharedSandbox]
) -> None:
    alice, bob, _, mallory = four
    for top in ("/tmp", "/var/tmp", "/dev/shm"):
        await alice.sh(
            f"echo secret > {top}/alice; mkdir {top}/dir; echo secret > {top}/dir/secret"
        )
        for attack in (
            "cat {}/alice",
            "echo x > {}/alice",
            "rm -f {}/alice",
            "mv {}/alice {}/b",
            "cat {}/dir/secret",
            "touch {}/dir/x",
            "ls {}/dir",
            "mv {}/dir {}/c",
        ):
            assert (await mallory.sh(attack.format(top, top))).exit_code != 0, attack
        assert (await alice.sh(f"cat {top}/alice {top}/dir/secret")).text == "secret\nsecret\n"
    # A name that can be guessed: a temporary file is not where others can wait for it.
    await mallory.sh("for n in $(seq 100); do ln -s /tmp/theirs /tmp/tmp.$n; done")
    names = await all_lines(bob, "mktemp; python3 -c 'import tempfile; print(tempfile.mkdtemp())'")
    assert all(name.startswith("/home/sandboxkit/bob/tmp/") for name in names)
    # What was prepared for somebody who is still to come.
    await mallory.sh("mkdir -m 777 /tmp/sandboxkit-0 /tmp/dave; touch /home/sandboxkit/dave")
    dave = await SharedSandbox.join(whole, user="dave")
    assert dave.home == "/home/sandboxkit/dave/home"
    await dave.aclose()


async def test_the_table_of_processes_is_not_filled_by_one(
    whole: sk.Sandbox, four: list[SharedSandbox]
) -> None:
    """Three do what they can; the fourth, and who owns the sandbox, work on."""
    alice, *hostile = four
    counts: list[int] = []
    uids = {one.user: (await one.exec(["id", "-u"])).text.strip() for one in hostile}
    for one in hostile:
        bomb = await one.spawn(["python3", "-c", FORKS])
        with anyio.fail_after(60):
            counts.append(int(await bomb.stdout.receive()))
    assert all(0 < count < 512 // 4 for count in counts), counts
    for agent in (alice, whole):
        assert (await agent.sh("seq 3 | sort -r | head -n 1")).text == "3\n"
        await agent.files.write("file", "content")
    with pytest.raises(sk.SandboxError):
        (await hostile[0].sh("true & true & wait")).check()
    for one in hostile:
        await one.aclose()
        assert await alive(whole, uids[one.user]) == []
    assert await alice.files.read_text("file") == "content"


async def test_a_fork_bomb_ends_with_its_agent(
    whole: sk.Sandbox, four: list[SharedSandbox]
) -> None:
    """One that kills what comes near, and forks on while it is killed."""
    mallory = four[3]
    script = (
        "import os, signal\nfor s in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:\n"
        " try: signal.signal(s, signal.SIG_IGN)\n except (OSError, ValueError): pass\n"
        "print(os.getuid(), flush=True)\nos.environ.clear()\n"
        "while True:\n try:\n  if os.fork(): os.setsid()\n except OSError: pass\n"
    )
    bomb = await mallory.spawn(["python3", "-c", script])
    uid = (await bomb.stdout.receive()).split()[0].decode()
    await mallory.aclose()
    assert await alive(whole, uid) == []
    assert (await four[0].exec(["id", "-un"])).text == "alice\n"
