"""Several agents in one sandbox, on every backend; refused where the guest is not root."""

from __future__ import annotations

import anyio
import pytest

import sandboxkit as sk
from sandboxkit.errors import (
    ConnectionLostError,
    ExecStartError,
    InvalidSpecError,
    PathPermissionError,
    UnsupportedError,
)
from sandboxkit.session.sharing import SharedSandbox
from sandboxkit.testing import ScriptedModel, call, say
from tests.agents.messages_agent import agent
from tests.clouds.conftest import Backend
from tests.emulators.emulator import Emulator

pytestmark = pytest.mark.timeout(300)  # the first sandbox of a cloud may build its image

BOARD = "/shared/board"


async def test_agents_that_share_a_sandbox(backend: Backend) -> None:
    models = [
        ScriptedModel(
            [
                call("bash", command=f"id -un; pwd; echo mine > mine; echo {name} >> {BOARD}/all"),
                say("Done."),
            ]
        )
        for name in ("alice", "bob")
    ]
    async with sk.Sandbox.create(backend.name) as whole, models[0], models[1]:
        sessions = [
            sk.Session(sandbox=whole, user=name, agent=agent(model), shared_folders=[BOARD])
            for name, model in zip(("alice", "bob"), models, strict=True)
            if backend.name != "daytona"
        ]
        if backend.name == "daytona":
            with pytest.raises(UnsupportedError, match="on 'daytona' the guest is not root here"):
                sk.Session(sandbox=whole, agent=agent(models[0]))
            assert (await whole.sh("ls -d /home/sandboxkit /shared")).exit_code != 0
            return
        async with sessions[0] as alice, sessions[1] as bob:
            for session, model in zip(sessions, models, strict=True):
                assert (await session.run("Work")).text == "Done."
                said = model.requests[-1].tool_results[-1].text.split()
                assert said == [session.sandbox.home.split("/")[3], session.sandbox.workdir]
            secret = await alice.sandbox.spawn(["sleep", "3600"], env={"TOKEN": "the-token"})
            await alice.sandbox.sh("chmod 777 . ~ mine")
            for attack in (
                f"cat {alice.sandbox.workdir}/mine",
                f"ls {alice.sandbox.home}",
                f"cat /proc/{secret.pid}/environ",
                f"kill -9 {secret.pid}",
                "ls /run/sandboxkit-0",
                "echo x >> /etc/passwd",
                "sudo -n id",
                f"mv {BOARD} /shared/mine",
            ):
                assert (await bob.sandbox.sh(attack)).exit_code != 0, attack
            with pytest.raises(PathPermissionError):
                await bob.sandbox.files.read(f"{alice.sandbox.workdir}/mine")
            with pytest.raises(InvalidSpecError, match="another session is the user"):
                await SharedSandbox.join(whole, user="alice")
            assert secret.exit_code is None
            assert await bob.sandbox.files.read_text(f"{BOARD}/all") == "alice\nbob\n"
        left = await whole.exec(["ls", "-A", "/home/sandboxkit"], user="0")
        assert left.check().text == ""
        assert (await whole.sh(f"pgrep -f '^sleep 3600'; ls {BOARD}")).text == ""
    assert await backend.alive() == set()


async def test_a_guest_that_starts_again_finds_its_users(e2b: Emulator) -> None:
    """Root may kill it, or the kernel for memory. What ran is ended, and the files are there."""
    async with sk.Sandbox.create("e2b") as whole:
        alice = await SharedSandbox.join(whole, user="alice", shared_folders=[BOARD])
        bob = await SharedSandbox.join(whole, user="bob")
        before = (await alice.sh("echo kept > file; id -u; id -G")).text
        await alice.spawn(["sleep", "3600"], detach=True)
        with pytest.raises(ConnectionLostError):
            await whole.sh("kill -9 $PPID; sleep 60", user="0")
        with anyio.fail_after(60):
            while True:
                try:
                    after = await alice.sh("id -u; id -G; cat file; umask; pwd")
                    break
                except (ExecStartError, ConnectionLostError):  # it is being made again
                    await anyio.sleep(0.05)
        assert after.text == f"{before}kept\n0007\n{alice.workdir}\n"
        assert (await whole.sh("pgrep -f '^sleep 3600'")).text == ""
        assert (await bob.sh(f"ls {alice.workdir}")).exit_code != 0
        await alice.files.write(f"{BOARD}/x", "x")
        await alice.aclose()
        await bob.aclose()
        left = await whole.exec(["ls", "-A", "/home/sandboxkit"], user="0")
        assert left.check().text == ""
