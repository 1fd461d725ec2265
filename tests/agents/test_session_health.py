"""`Session.health`: the agent and the gateway beside the machine and its guest."""

from __future__ import annotations

import anyio
import pytest

from sandboxkit.agents import TextDelta
from sandboxkit.agents.messages import Messages
from sandboxkit.health import Health
from sandboxkit.sandbox import Sandbox
from sandboxkit.session import Session
from sandboxkit.testing import ScriptedModel, fail, say
from tests.agents.messages_agent import STALLED, agent
from tests.agents.test_session import claude

WAIT_S = 60.0


async def until(session: Session, part: str, state: str) -> Health:
    """The first health in which a part has a state."""
    with anyio.fail_after(WAIT_S):
        while True:
            health = await session.health()
            if health.parts[part].state == state:
                return health
            await anyio.sleep(0.1)


async def test_a_session_at_work_and_at_rest(sandbox: Sandbox) -> None:
    model = ScriptedModel([STALLED, say("Done.")])
    async with model, Session(sandbox, agent=claude(model)) as session:
        rest = await session.health()
        assert rest.ok, rest
        assert rest.agent
        assert rest.gateway
        assert (rest.agent.state, rest.agent.reason) == ("ok", "waits for a prompt")
        assert rest.gateway.latency_s
        async with session.stream("Count") as events:
            while not isinstance(await anext(events), TextDelta):
                pass
            work = await session.health()
            assert work.ok, work
            assert work.agent
            assert work.agent.reason.startswith("at a prompt for ")
            assert work.agent.details["turn"] == 1
            silent_s, turn_s = work.agent.details["silent_s"], work.agent.details["turn_s"]
            assert isinstance(silent_s, float)
            assert isinstance(turn_s, float)
            assert 0 <= silent_s <= turn_s
        assert (await session.run("Go on")).text == "Done."  # nothing was disturbed
        again = await session.health()
        assert again.agent
        assert again.agent.reason == "waits for a prompt"
        assert set(again.parts) == {"machine", "guest", "agent", "gateway"}
        assert set(again.as_dict()) == {"ok", "at", *again.parts}


async def test_a_cli_that_was_killed(sandbox: Sandbox) -> None:
    model = ScriptedModel([say("First."), say("Second.")])
    async with model, Session(sandbox, agent=claude(model)) as session:
        await session.run("Begin")
        await sandbox.sh("pkill -KILL claude || kill -KILL $(pgrep -f stream-json)")
        health = await until(session, "agent", "ill")
        assert health.agent
        assert "-9" in health.agent.reason
        assert health.machine.ok
        assert health.guest.ok
        assert not health.ok


async def test_a_gateway_that_takes_no_connection(sandbox: Sandbox) -> None:
    model = ScriptedModel([say("First.")])
    async with model, Session(sandbox, agent=claude(model)) as session:
        (route,) = session._account.routes  # pyright: ignore[reportPrivateUsage]
        server = route._server._server  # pyright: ignore[reportPrivateUsage]
        assert server
        server.close()
        health = await session.health()
        assert health.gateway
        assert (health.gateway.state, health.ok) == ("ill", False)
        assert "takes no connection" in health.gateway.reason
        assert health.agent
        assert health.agent.ok


async def test_a_tunnel_that_is_not_there(sandbox: Sandbox) -> None:
    model = ScriptedModel([say("First.")])
    async with model, Session(sandbox, agent=claude(model)) as session:
        (route,) = session._account.routes  # pyright: ignore[reportPrivateUsage]
        assert route.port_inside
        assert (await session.health()).ok
        route.port_inside += 1
        health = await session.health()
        assert health.gateway
        assert health.gateway.state == "ill"
        assert str(route.port_inside) in health.gateway.reason


@pytest.mark.parametrize(("status", "ill"), [(401, True), (500, True), (400, False)])
async def test_what_the_model_said_last(engine: str, status: int, ill: bool) -> None:
    model = ScriptedModel([fail(status), *[fail(status)] * 3, say("Well again.")])
    async with model, Session("docker", agent=agent(model, max_retries=0)) as session:
        assert (await session.run("Work")).is_error
        health = await session.health()
        assert health.gateway
        assert (health.gateway.state == "ill") is ill
        assert f"status {status}" in str(health.gateway.details["last_error"])
        while (await session.run("Work")).is_error:
            pass
        health = await session.health()
        assert health.ok, health
        assert health.gateway
        assert f"status {status}" in str(health.gateway.details["last_error"])


async def test_where_there_is_no_machine(engine: str) -> None:
    session = Session("docker", agent=Messages(model_url="http://127.0.0.1:9", api_key="key"))
    assert "not been entered" in str(await session.health())
    async with session:
        assert (await session.health()).ok
    closed = await session.health()
    assert closed.ok
    assert "has been closed" in str(closed)


async def test_a_machine_that_was_lost(engine: str) -> None:
    model = ScriptedModel([say("Hello.")])
    async with model, Session("docker", agent=agent(model)) as session:
        other = await Sandbox.attach("docker", session.sandbox.id)
        await other.destroy()
        health = await until(session, "machine", "ill")
        assert not health.ok
        assert not (await until(session, "guest", "ill")).ok
