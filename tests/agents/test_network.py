"""An agent in a sandbox with a list of hosts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from claude_agent_sdk import ClaudeAgentOptions

import sandboxkit as sk
from sandboxkit.agents import Event, Finished, NetworkRefusal, ToolResult
from sandboxkit.errors import InvalidSpecError
from sandboxkit.testing import ScriptedModel, call, say
from tests.gateway.world import PUBLIC, Certificates, Origin, World


@pytest.fixture
def origin() -> Iterator[Origin]:
    origin = Origin()
    yield origin
    origin.close()


def claude(model: ScriptedModel) -> sk.ClaudeCode:
    options = ClaudeAgentOptions(permission_mode="bypassPermissions")
    return sk.ClaudeCode(options, model_url=model.url)


async def test_the_agent_reaches_what_is_allowed_and_refusals_are_events(
    engine: str, origin: Origin
) -> None:
    world = World({"api.example.com": [PUBLIC]}, {(PUBLIC, 80): origin.port})
    ask = "curl -sS http://api.example.com/; curl -sS http://evil.example/"
    model = ScriptedModel([call("Bash", command=ask), say("One of two.")])
    async with (
        model,
        sk.Session(
            "docker",
            agent=claude(model),
            network=sk.NetworkPolicy.allow(["api.example.com"]),
            gateway=sk.Gateway(resolve=world.resolve, dial=world.dial),
        ) as session,
    ):
        events: list[Event] = [event async for event in session.stream("Ask both")]
        decisions = session.sandbox.network.decisions
    kinds = [type(event) for event in events]
    (result,) = [event for event in events if isinstance(event, ToolResult)]
    assert "hello from api.example.com" in result.text
    assert "do not retry" in result.text
    (refusal,) = [event for event in events if isinstance(event, NetworkRefusal)]
    assert (refusal.method, refusal.host, refusal.port) == ("GET", "evil.example", 80)
    assert refusal.reason == "evil.example is not on the list of allowed hosts"
    assert kinds.index(NetworkRefusal) < kinds.index(ToolResult)
    assert isinstance(events[-1], Finished)
    # The model is reached by loopback, and so past the proxy; and nothing else was asked for.
    assert [one.host for one in decisions] == ["api.example.com", "evil.example"]


async def test_a_secret_of_a_session(engine: str, certificates: Certificates) -> None:
    origin = Origin(certificates.server("api.example.com"))
    world = World({"api.example.com": [PUBLIC]}, {(PUBLIC, 443): origin.port})
    ask = 'curl -sS -H "X-Key: $API_KEY" https://api.example.com/; echo "key: $API_KEY"'
    model = ScriptedModel([call("Bash", command=ask), say("Done.")])
    async with (
        model,
        sk.Session(
            "docker",
            agent=claude(model),
            network=sk.NetworkPolicy.allow(["api.example.com"]),
            secrets=[sk.Secret("API_KEY", "the-value", hosts=["api.example.com"])],
            gateway=sk.Gateway(resolve=world.resolve, dial=world.dial, trust=certificates.trust()),
        ) as session,
    ):
        events = [event async for event in session.stream("Use the key")]
    origin.close()
    assert origin.seen[0].headers["X-Key"] == "the-value"
    (result,) = [event for event in events if isinstance(event, ToolResult)]
    assert "key: sandboxkit-secret-" in result.text
    assert "the-value" not in repr(events) + repr(session)


async def test_a_sandbox_of_the_callers_own_has_its_secrets(engine: str) -> None:
    async with sk.Sandbox.create("docker") as sandbox:
        with pytest.raises(InvalidSpecError, match="cannot take"):
            sk.Session(sandbox, secrets=[sk.Secret("A", "x", hosts=["a.example"])])
