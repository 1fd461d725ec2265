"""Sessions that sleep: what is refused, what fails, what comes at the wrong moment."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import pytest

import sandboxkit as sk
from sandboxkit.errors import (
    AsleepError,
    CapacityError,
    InvalidSpecError,
    ProviderUnavailableError,
    SandboxNotFoundError,
    UnsupportedError,
)
from sandboxkit.providers.docker.handle import DockerHandle
from sandboxkit.providers.docker.provider import DockerProvider
from sandboxkit.sandbox import Sandbox
from sandboxkit.session import Session
from sandboxkit.session.states import SessionState, StateChange
from sandboxkit.spec import OWNER_LABEL, NetworkPolicy
from sandboxkit.store import Store
from sandboxkit.testing import ScriptedModel, say
from tests.agents.messages_agent import agent
from tests.leaks import OWNER

pytestmark = [pytest.mark.slow]

LONG_S = 120.0
SLEEPY: dict[str, Any] = {"idle_timeout_s": 1.0}
WAYS = pytest.mark.parametrize("how", ["pause", "save"])


@pytest.fixture
async def store(engine: str, tmp_path: Path) -> AsyncIterator[Store]:
    async with Store(f"sqlite:///{tmp_path}/store.db") as store:
        yield store


def sleepy(how: str, store: Store, model: ScriptedModel, **fields: Any) -> Session:
    kept = store if how == "save" else None
    return Session("docker", agent=agent(model), store=kept, on_idle=how, **SLEEPY, **fields)


async def reached(session: Session, *states: SessionState) -> None:
    with anyio.fail_after(LONG_S):
        await session.states.reached(*states)


async def asleep(session: Session) -> None:
    await reached(session, "paused", "saved")


async def containers() -> set[str]:
    provider = DockerProvider()
    try:
        return {info.id async for info in provider.list({OWNER_LABEL: OWNER})}
    finally:
        await provider.aclose()


def failing(
    monkeypatch: pytest.MonkeyPatch, kind: type, name: str, error: Exception, times: int = 1
) -> None:
    """Let a call to the backend fail before it is made."""
    real: Callable[..., Awaitable[object]] = getattr(kind, name)
    left = [error] * times

    async def call(*arguments: object) -> object:
        if left:
            raise left.pop()
        return await real(*arguments)

    monkeypatch.setattr(kind, name, call)


# refused


@pytest.mark.parametrize(
    ("fields", "error", "said"),
    [
        ({"on_idle": "snapshot", **SLEEPY}, UnsupportedError, "cannot snapshot"),
        ({"on_idle": "save", **SLEEPY}, InvalidSpecError, "store"),
        ({"on_idle": "pause"}, InvalidSpecError, "idle_timeout_s"),
        ({"on_idle": "sleep", **SLEEPY}, InvalidSpecError, "on_idle"),
    ],
)
async def test_refused_before_anything_is_made(
    engine: str, fields: dict[str, Any], error: type[Exception], said: str
) -> None:
    before = await containers()
    async with ScriptedModel([]) as model:
        with pytest.raises(error, match=said):
            async with Session("docker", agent=agent(model), strict=False, **fields):
                pass
    assert await containers() == before


async def test_only_a_session_does_it(engine: str) -> None:
    with pytest.raises(InvalidSpecError, match="Session"):
        await Sandbox.create("docker", on_idle="pause", **SLEEPY)
    with pytest.raises(InvalidSpecError, match="pool"):
        sk.Pool("docker", size=1, on_idle="pause", **SLEEPY)


# asleep


async def test_without_a_machine_it_says_how_to_wake_it(store: Store) -> None:
    async with ScriptedModel([]) as model, sleepy("save", store, model) as session:
        await asleep(session)
        assert await containers() == set()
        with pytest.raises(AsleepError, match=r"session\.wake"):
            session.sandbox  # noqa: B018
        await session.save()  # it is
        await session.wake()
        await session.wake()
        assert session.states.now == "ready"
        assert (await session.sandbox.sh("echo here")).text == "here\n"


async def test_use_of_a_paused_one_wakes_it(store: Store) -> None:
    async with ScriptedModel([]) as model, sleepy("pause", store, model) as session:
        sandbox = session.sandbox
        for number in range(2):
            await asleep(session)
            with anyio.fail_after(LONG_S):
                assert (await sandbox.sh(f"echo {number}")).text == f"{number}\n"
            assert session.sandbox is sandbox
            await reached(session, "ready")


@WAYS
async def test_the_end_of_one_that_sleeps_leaves_nothing(store: Store, how: str) -> None:
    async with ScriptedModel([say("Yes.")]) as model:
        async with sleepy(how, store, model) as session:
            await session.run("Well?")
            await asleep(session)
        assert session.states.now == "closed"
        assert await containers() == set()
    if how == "save":
        assert (await store.get(session.id)).state == "saved"
        async with (
            ScriptedModel([say("Again.")]) as model,
            Session.resume(session.id, store=store, agent=agent(model)) as again,
        ):
            assert (await again.run("And?")).text == "Again."


async def test_a_named_one_that_sleeps_can_be_left(engine: str, tmp_path: Path) -> None:
    """Its next host finds it awake, with the same machine."""
    name = f"sleepy-{uuid4().hex[:8]}"
    # Between its hosts nobody would pause it: it would end.
    fields: dict[str, Any] = {"name": name, "on_idle": "pause", "idle_timeout_s": 8.0}
    async with ScriptedModel([]) as model:
        async with Session("docker", agent=agent(model, store=tmp_path), **fields) as one:
            await one.sandbox.files.write("file", "kept")
            machine = one.sandbox.id
            await asleep(one)
        assert one.states.now == "closed"
        async with Session("docker", agent=agent(model, store=tmp_path), **fields) as two:
            assert two.sandbox.id == machine
            await asleep(two)
            assert await two.sandbox.files.read_text("file") == "kept"
            await two.destroy()
    assert await containers() == set()


async def test_paused_with_a_store_is_saved_before(store: Store) -> None:
    async with ScriptedModel([]) as model:
        session = Session("docker", agent=agent(model), store=store, on_idle="pause", **SLEEPY)
        async with session:
            await session.sandbox.files.write("late", "by hand")
            await asleep(session)
        async with Session.resume(
            session.id, store=store, agent=agent(model), on_idle="destroy"
        ) as again:
            assert await again.sandbox.files.read_text("late") == "by hand"


async def test_what_the_network_was_narrowed_to_holds(store: Store) -> None:
    network = NetworkPolicy.allow(["a.example.com", "b.example.com"])
    async with ScriptedModel([]) as model, sleepy("save", store, model, network=network) as session:
        await session.sandbox.network.set(NetworkPolicy.allow(["a.example.com"]))
        await asleep(session)
        await session.wake()
        assert session.sandbox.network.policy.hosts == ("a.example.com",)


async def test_a_paused_one_that_is_gone(store: Store) -> None:
    """With a store another machine is made; without one the session has failed."""
    async with ScriptedModel([say("Here.")]) as model:
        for kept in (store, None):
            session = Session("docker", agent=agent(model), store=kept, on_idle="pause", **SLEEPY)
            async with session:
                await session.sandbox.files.write("file", "kept")
                await asleep(session)
                provider = DockerProvider()
                await provider.destroy(session.sandbox.id)
                await provider.aclose()
                if kept is not None:
                    assert (await session.run("Where are you?")).text == "Here."
                    assert await session.sandbox.files.read_text("file") == "kept"
                    continue
                with pytest.raises(SandboxNotFoundError):
                    await session.wake()
                assert session.states.now == "failed"


# at the wrong moment


@WAYS
async def test_a_prompt_at_the_moment_of_falling_asleep(store: Store, how: str) -> None:
    async with ScriptedModel([say("Yes."), say("Yes.")]) as model:
        async with sleepy(how, store, model) as session:
            prompts: list[asyncio.Task[Any]] = []

            def told(change: StateChange) -> None:
                if change.after == "idle" and not prompts:
                    prompts.append(asyncio.ensure_future(session.run("Awake?")))

            session.states.listen(told)
            await reached(session, "running")
            with anyio.fail_after(LONG_S):
                assert (await prompts[0]).text == "Yes."
            await asleep(session)
            assert (await session.run("And now?")).text == "Yes."


@WAYS
async def test_work_at_the_moment_of_falling_asleep(store: Store, how: str) -> None:
    """It is not frozen, nor ended: the session stays awake, or wakes for it."""
    async with ScriptedModel([]) as model, sleepy(how, store, model) as session:
        sandbox, work = session.sandbox, list[asyncio.Task[Any]]()

        def told(change: StateChange) -> None:
            if change.after == "idle" and not work:
                work.append(asyncio.ensure_future(sandbox.sh("sleep 2; echo done")))

        session.states.listen(told)
        await reached(session, "idle")
        with anyio.fail_after(LONG_S):
            assert (await work[0]).text == "done\n"
        await asleep(session)


@WAYS
async def test_an_end_at_the_moment_of_falling_asleep(store: Store, how: str) -> None:
    async with ScriptedModel([]) as model:
        async with sleepy(how, store, model) as session:
            await reached(session, "idle")
        assert session.states.now == "closed"
        assert await containers() == set()


@WAYS
async def test_a_prompt_that_is_cancelled_while_it_wakes(store: Store, how: str) -> None:
    async with ScriptedModel([say("Yes."), say("Yes.")]) as model:
        async with sleepy(how, store, model) as session:
            await asleep(session)
            prompt = asyncio.ensure_future(session.run("Awake?"))
            await reached(session, "creating" if how == "save" else "paused")
            await asyncio.sleep(0)
            prompt.cancel()
            with pytest.raises(asyncio.CancelledError):
                await prompt
            await reached(session, "ready")
            assert (await session.run("And now?")).text == "Yes."
        assert await containers() == set()


@WAYS
async def test_an_end_while_it_wakes(store: Store, how: str) -> None:
    async with ScriptedModel([]) as model:
        async with sleepy(how, store, model) as session:
            await asleep(session)
            waking = asyncio.ensure_future(session.wake())
            await asyncio.sleep(0)
        with contextlib.suppress(asyncio.CancelledError, sk.SandboxError):
            await waking
        assert await containers() == set()


# failures


async def test_a_pause_that_fails_is_tried_again(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failing(monkeypatch, DockerHandle, "pause", ProviderUnavailableError("down"))
    async with ScriptedModel([say("Yes.")]) as model, sleepy("pause", store, model) as session:
        await session.sandbox.files.write("file", "kept")
        with caplog.at_level(logging.WARNING, "sandboxkit"):
            await asleep(session)
        assert "could not pause" in caplog.text
        states = [change.after for change in session.states.changes]
        assert states[-4:] == ["idle", "ready", "idle", "paused"]
        assert (await session.run("Well?")).text == "Yes."
        assert await session.sandbox.files.read_text("file") == "kept"


async def test_a_store_that_is_down_keeps_it_awake(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with ScriptedModel([say("Yes."), say("Yes.")]) as model:
        async with sleepy("save", store, model) as session:
            await session.run("Well?")
            await session.sandbox.files.write("first", "so that there is a folder")
            await session.save()
            (tmp_path / "files").rename(tmp_path / "away")
            (tmp_path / "files").write_text("in the way")
            await session.sandbox.files.write("file", "kept")
            with caplog.at_level(logging.WARNING, "sandboxkit"):
                await reached(session, "idle")
                await reached(session, "ready")
            assert "could not save" in caplog.text
            assert (await session.run("Well?")).text == "Yes."
            (tmp_path / "files").unlink()
            (tmp_path / "away").rename(tmp_path / "files")
            await asleep(session)
            await session.wake()
            assert await session.sandbox.files.read_text("file") == "kept"


async def test_a_resumption_that_fails_can_be_tried_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, DockerHandle, "resume", ProviderUnavailableError("down"), times=2)
    async with ScriptedModel([say("Yes.")]) as model, sleepy("pause", store, model) as session:
        sandbox = session.sandbox
        await asleep(session)
        with pytest.raises(ProviderUnavailableError):
            await session.run("Well?")
        with pytest.raises(ProviderUnavailableError):
            await session.wake()
        assert session.states.now == "paused"
        with anyio.fail_after(LONG_S):
            assert (await sandbox.sh("echo here")).text == "here\n"
        assert (await session.run("Well?")).text == "Yes."


async def test_a_creation_that_fails_can_be_tried_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with ScriptedModel([say("Yes.")]) as model:
        async with sleepy("save", store, model, wait_s=0) as session:
            await session.sandbox.files.write("file", "kept")
            await asleep(session)
            failing(monkeypatch, DockerProvider, "create", CapacityError("full"))
            with pytest.raises(CapacityError):
                await session.run("Well?")
            assert session.states.now == "failed"
            with pytest.raises(AsleepError):
                session.sandbox  # noqa: B018
            assert (await session.run("Well?")).text == "Yes."
            assert await session.sandbox.files.read_text("file") == "kept"
