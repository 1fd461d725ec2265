"""Four agents in one sandbox: what each has for itself, and what is left when one ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import anyio
import pytest

import sandboxkit as sk
from sandboxkit.errors import (
    ExecStartError,
    InvalidSpecError,
    SandboxClosedError,
    UnsupportedError,
)
from sandboxkit.session.sharing import SharedSandbox

BOARD = "/shared/board"
MEMORY = "import ctypes; print(ctypes.CDLL(None).shmget(7, 4096, 0o1666))"  # of System V
SHED = "import os; os.environ.clear(); os.execv('/bin/sleep', ['sleep', '7777'])"  # the marker


@pytest.fixture
async def whole(engine: str) -> AsyncIterator[sk.Sandbox]:
    async with sk.Sandbox.create("docker") as sandbox:
        yield sandbox


async def running(whole: sk.Sandbox, pattern: str) -> int:
    return int((await whole.exec(["pgrep", "-c", "-f", pattern])).text)


async def gone(whole: sk.Sandbox, path: str) -> bool:
    return (await whole.exec(["test", "-e", path], user="0")).exit_code == 1


async def test_each_has_a_user_a_home_and_a_tree_of_its_own(whole: sk.Sandbox) -> None:
    alice = await SharedSandbox.join(whole, user="alice")
    other = await SharedSandbox.join(whole)
    for one in (alice, other):
        script = "id -un; pwd; echo $HOME; echo $TMPDIR; umask; id -G | wc -w"
        name, cwd, home, tmp, umask, groups = (await one.sh(script)).text.split()
        assert (name, cwd, home, umask, groups) == (one.user, one.workdir, one.home, "0007", "1")
        assert tmp.startswith(f"/home/sandboxkit/{name}/")
        await one.files.write("notes/a", name)
        assert await whole.files.read_text("/etc/passwd")
        assert (await one.sh("cat notes/a; stat -c %U notes/a")).text == f"{name}{name}\n"
        assert await one.files.read_text(f"{one.workdir}/notes/a") == name
        await one.spawn(["true"], user=name)  # by its own name, too
    assert alice.workdir != other.workdir
    assert (await whole.sh("pwd; id -u")).text == "/work\n1000\n"
    await alice.aclose()
    await other.aclose()


async def test_a_terminal_and_a_directory_that_only_the_user_can_enter(whole: sk.Sandbox) -> None:
    alice = await SharedSandbox.join(whole, user="alice")
    await alice.sh("mkdir -m 700 deep")
    for _ in range(3):  # by a fork of the guest, and by a child that waits
        assert (await alice.exec(["pwd"], cwd="deep")).text == f"{alice.workdir}/deep\n"
        with pytest.raises(ExecStartError, match="cannot enter") as raised:
            await alice.exec(["pwd"], cwd="missing")
        assert raised.value.code == "bad_cwd"
    async with await alice.spawn(["pwd"], cwd="deep", pty=True) as process:
        assert (await process.stdout.read()).strip() == f"{alice.workdir}/deep".encode()
    await alice.aclose()


async def test_a_name_is_there_once(whole: sk.Sandbox) -> None:
    alice = await SharedSandbox.join(whole, user="alice")
    with pytest.raises(InvalidSpecError, match="another session is the user alice"):
        await SharedSandbox.join(whole, user="alice")
    async with sk.Sandbox.attach("docker", whole.id) as attached:  # another host
        with pytest.raises(InvalidSpecError, match="another session is the user alice"):
            await SharedSandbox.join(attached, user="alice")
        bob = await SharedSandbox.join(attached, user="bob")
        uids = {(await one.exec(["id", "-u"])).text for one in (alice, bob)}
        assert len(uids) == 2
        # Bob's host leaves without a word about bob.
    with anyio.fail_after(60):
        while not await gone(whole, "/home/sandboxkit/bob"):
            await anyio.sleep(0.05)
    await bob.aclose()
    await alice.aclose()
    again = await SharedSandbox.join(whole, user="alice")
    assert await again.files.list() == []
    assert (await again.exec(["id", "-u"])).text not in uids
    await again.aclose()


async def test_ten_at_once_have_ten_numbers(whole: sk.Sandbox) -> None:
    made: list[SharedSandbox] = []

    async def join() -> None:
        made.append(await SharedSandbox.join(whole))

    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(join)
    uids = [(await one.exec(["id", "-u"])).text for one in made]
    assert len(set(uids)) == 10
    for one in made:
        await one.aclose()
    assert (await whole.exec(["ls", "-A", "/home/sandboxkit"], user="0")).text == ""


async def test_a_cancelled_join_leaves_nothing(whole: sk.Sandbox) -> None:
    before = await whole.files.read("/etc/passwd")
    for step in range(16):
        join = asyncio.ensure_future(SharedSandbox.join(whole, user="alice"))
        await asyncio.sleep(step / 500)
        join.cancel()
        try:
            await (await join).aclose()
        except asyncio.CancelledError:
            continue
    assert (await whole.exec(["ls", "-A", "/home/sandboxkit"], user="0")).text == ""
    assert await whole.files.read("/etc/passwd") == before


async def test_variables_of_the_sandbox_do_not_lead_elsewhere(engine: str) -> None:
    async with sk.Sandbox.create("docker", env={"HOME": "/x", "TMPDIR": "/y", "A": "b"}) as whole:
        alice = await SharedSandbox.join(whole, user="alice")
        place = "/home/sandboxkit/alice"
        said = (await alice.sh("echo $HOME $TMPDIR $A $USER")).text
        assert said == f"{place}/home {place}/tmp b alice\n"
        await alice.aclose()


async def test_a_user_of_the_image_is_not_taken(whole: sk.Sandbox) -> None:
    for name in ("root", "agent", "daemon", "tty"):
        with pytest.raises(InvalidSpecError, match="the image has a user or a group"):
            await SharedSandbox.join(whole, user=name)


async def test_names_and_folders_that_are_none(whole: sk.Sandbox) -> None:
    for name in ("", "Alice", "../alice", "a b", "1a", "a" * 32, "a:b", "a\n", "-a"):
        with pytest.raises(InvalidSpecError, match="user: "):
            await SharedSandbox.join(whole, user=name)
    for path in ("board", "/", "//", "/shared/../etc", "/shared/", "/a\0b", ""):
        with pytest.raises(InvalidSpecError, match="shared_folders: "):
            await SharedSandbox.join(whole, shared_folders=[path])
    with pytest.raises(InvalidSpecError, match="not one path"):
        await SharedSandbox.join(whole, shared_folders="/shared/board")


async def test_its_end_leaves_nothing_and_touches_nobody_else(whole: sk.Sandbox) -> None:
    alice = await SharedSandbox.join(whole, user="alice", shared_folders=[BOARD])
    bob = await SharedSandbox.join(whole, user="bob", shared_folders=[BOARD])
    survivor = await bob.spawn(["sleep", "8888"])
    await alice.spawn(["sleep", "7777"])
    await alice.spawn(["sleep", "7777"], detach=True)
    await alice.sh(f"setsid sh -c 'sleep 7777 & sleep 7777 &' & python3 -c \"{SHED}\" &")
    await alice.sh(
        "mkdir -p a/b; touch a/b/c; ln -s /etc/passwd a/link; chmod 0 a/b a; chmod 0 ~;"
        "touch /tmp/left /var/tmp/left; mkdir -m 0 /dev/shm/left; echo hello > /shared/board/left"
    )
    deep = "import os\nfor _ in range(1000):\n os.mkdir('deep'); os.chdir('deep')"
    assert (await alice.exec(["python3", "-c", deep])).exit_code == 0
    assert int((await alice.exec(["python3", "-c", MEMORY])).text) >= 0
    assert await running(whole, "^sleep 7777") == 5
    uid = (await alice.exec(["id", "-u"])).text.strip()

    await alice.aclose()

    assert await running(whole, "^sleep 7777") == 0
    assert (await whole.exec(["pgrep", "-u", uid, "-r", "DRST"])).exit_code == 1
    for path in ("/home/sandboxkit/alice", "/tmp/left", "/var/tmp/left", "/dev/shm/left"):
        assert await gone(whole, path), path
    assert "alice" not in await whole.files.read_text("/etc/passwd")
    assert await bob.files.read_text(f"{BOARD}/left") == "hello\n"
    assert len((await whole.files.read_text("/proc/sysvipc/shm")).splitlines()) == 1
    assert survivor.exit_code is None
    with pytest.raises(SandboxClosedError):
        await alice.exec(["true"])
    with pytest.raises(ExecStartError):
        await whole.exec(["true"], user="sandboxkit.alice")
    await bob.aclose()


async def test_nothing_is_started_for_a_user_who_has_just_gone(whole: sk.Sandbox) -> None:
    """Of the guest's own: what waits for a quiet moment to be made."""
    alice = await SharedSandbox.join(whole, user="alice")
    look = ["stat", "-c", "%g", "/home/sandboxkit/alice"]
    uid = (await whole.exec(look, user="0")).text.strip()
    await alice.spawn(["sleep", "7777"])  # her first program
    await alice.aclose()
    bob = await SharedSandbox.join(whole, user="bob")  # who has one when alice would have hers
    with anyio.fail_after(60):
        await bob.exec(["true"])
        while (await bob.sh("pgrep -u $(id -u) -f '^python3 -I -S'")).exit_code != 0:
            await anyio.sleep(0.05)
    assert (await whole.exec(["pgrep", "-u", uid, "-r", "DRST"])).exit_code == 1
    await bob.aclose()


async def test_what_it_is_of_the_whole(whole: sk.Sandbox) -> None:
    alice = await SharedSandbox.join(whole, user="alice")
    assert (alice.id, alice.info) == (whole.id, whole.info)
    with pytest.raises(InvalidSpecError, match="nothing as 'root'"):
        await alice.exec(["id"], user="root")
    with pytest.raises(InvalidSpecError, match="give the sandbox itself"):
        await SharedSandbox.join(alice)
    with pytest.raises(UnsupportedError, match="cannot be detached"):
        await alice.detach(keep_s=10)
    async with alice.ports.reverse(0, "127.0.0.1", 9) as address:
        assert address.port
    await alice.pause()
    assert whole.info.state == alice.info.state == "paused"
    assert (await alice.health(deadline_s=60)).machine.state == "paused"
    await alice.resume()
    assert (await alice.health(deadline_s=60)).ok
    assert (await alice.exec(["true"])).exit_code == 0
    await alice.aclose()
    await alice.aclose()
    assert alice.ended.is_set()
    assert not whole.ended.is_set()


async def test_the_sandbox_may_end_first(engine: str) -> None:
    async with sk.Sandbox.create("docker") as whole:
        alice = await SharedSandbox.join(whole, user="alice")
    with pytest.raises(SandboxClosedError):
        await alice.exec(["true"])
    await alice.aclose()


async def test_a_shared_folder_is_for_those_who_name_it(whole: sk.Sandbox) -> None:
    alice, bob = [
        await SharedSandbox.join(whole, user=name, shared_folders=[BOARD])
        for name in ("alice", "bob")
    ]
    mallory = await SharedSandbox.join(whole, user="mallory", shared_folders=["/shared/other"])
    await alice.files.write(f"{BOARD}/plan", "one")
    assert (await bob.sh(f"cd {BOARD}; echo two >> plan; cat plan; mkdir d; touch d/e")).text
    assert await alice.files.read_text(f"{BOARD}/plan") == "onetwo\n"
    await alice.files.write(f"{BOARD}/d/e", "three")
    assert (await bob.sh(f"cat {BOARD}/d/e; rm -r {BOARD}/d")).exit_code == 0
    for attack in (
        f"ls {BOARD}",
        f"cat {BOARD}/plan",
        f"touch {BOARD}/x",
        f"echo x >> {BOARD}/plan",
        f"rm -rf {BOARD}/plan; test ! -e {BOARD}/plan || false; ls {BOARD}/plan",
        f"mv {BOARD} /shared/moved",
        "mkdir /shared/mine",
        f"rmdir {BOARD}",
    ):
        assert (await mallory.sh(attack)).exit_code != 0, attack
    assert await alice.files.read_text(f"{BOARD}/plan") == "onetwo\n"
    for one in (alice, bob, mallory):
        await one.aclose()
    late = await SharedSandbox.join(whole, shared_folders=[BOARD])
    assert await late.files.read_text(f"{BOARD}/plan") == "onetwo\n"
    await late.aclose()


async def test_a_folder_that_others_could_replace_is_refused(whole: sk.Sandbox) -> None:
    mallory = await SharedSandbox.join(whole, user="mallory")
    await whole.exec(["ln", "-s", "/work", "/link"], user="0")
    await mallory.sh("mkdir /tmp/x")
    inside = f"{mallory.workdir}/board"
    for path in ("/work/board", inside, "/link/board", "/etc", "/tmp/x", "/etc/passwd"):
        with pytest.raises(InvalidSpecError, match="shared_folders: "):
            await SharedSandbox.join(whole, user="alice", shared_folders=[path])
    again = await SharedSandbox.join(whole, user="alice")  # what was refused has left nothing
    await again.aclose()
    await mallory.aclose()
