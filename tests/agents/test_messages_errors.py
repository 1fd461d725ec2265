"""What the messages agent makes of a service that fails, and of limits."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import pytest

import sandboxkit as sk
from sandboxkit.agents import Finished, Retry, TextDelta
from sandboxkit.agents.messages import Messages
from sandboxkit.errors import InvalidSpecError
from sandboxkit.sandbox import Sandbox
from sandboxkit.session import Session
from sandboxkit.testing import Reply, ScriptedModel, call, fail, say
from tests.agents.messages_agent import KEY, agent, only
from tests.gateway.service import EVENTS, BedrockService, Service

if TYPE_CHECKING:
    from sandboxkit.gateway.model.upstream import Upstream


@pytest.fixture
async def sandbox(engine: str) -> AsyncIterator[Sandbox]:
    async with Sandbox.create("docker") as sandbox:
        yield sandbox


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, "authentication_error (401): Look"),
        (403, "permission_error (403): Look"),
        (404, "not_found_error (404): Look"),
        (400, "invalid_request_error (400): Look"),
        (413, "request_too_large (413): Look"),
    ],
)
async def test_what_will_not_pass_is_a_result_at_once(
    sandbox: Sandbox, status: int, error: str
) -> None:
    model = ScriptedModel([fail(status, "Look"), say("Again.")])
    async with model, Session(sandbox, agent=agent(model)) as session:
        result = await session.run("Hello there")
        assert (await session.run("Go on")).text == "Again."
    assert (result.stop_reason, result.is_error, result.errors) == ("error", True, (error,))
    assert (result.text, result.turns) == ("", 1)
    assert KEY not in repr(result)
    assert KEY not in repr(vars(result.raw).get("request").headers)  # type: ignore[union-attr]
    assert len(model.requests) == 2
    # A prompt that the API cannot take would be refused with each later one as well.
    assert ("Hello there" in str(model.requests[1].messages)) is (status not in {400, 413})


async def test_a_conversation_that_is_too_long_is_taken_back(sandbox: Sandbox) -> None:
    model = ScriptedModel(
        [
            say("One."),
            call("bash", command="echo much"),
            fail(400, "prompt is too long: 200001 tokens > 200000 maximum"),
            say("Again."),
        ]
    )
    async with model, Session(sandbox, agent=agent(model)) as session:
        await session.run("one")
        result = await session.run("two")
        assert (await session.run("three")).text == "Again."
    assert "prompt is too long" in result.errors[0]
    assert [m.content[0].text for m in model.requests[3].messages] == ["one", "One.", "three"]


@pytest.mark.parametrize("status", [429, 500, 529])
async def test_what_may_pass_is_tried_again(sandbox: Sandbox, status: int) -> None:
    again = fail(status, retry_after_s=0.01)
    model = ScriptedModel([again, again, say("Here."), *[again] * 3])
    async with model, Session(sandbox, agent=agent(model, max_retries=2)) as session:
        events = [event async for event in session.stream("Hello")]
        lost = await session.run("Again")
    assert [(e.attempt, e.status) for e in only(events, Retry)] == [(1, status), (2, status)]
    assert only(events, Finished)[0].result.text == "Here."
    metered = only(events, Finished)[0].result.metered
    assert metered is not None
    assert (metered.requests, metered.failed) == (3, 2)
    assert (lost.stop_reason, lost.is_error) == ("error", True)
    assert f"({status})" in lost.errors[0]
    assert not model.unused


async def test_nobody_is_there(sandbox: Sandbox) -> None:
    async with ScriptedModel([]) as model:
        pass
    mine = Messages(model_url="http://127.0.0.1:9", max_retries=0)
    async with Session(sandbox, agent=mine) as session:
        result = await session.run("Hello")
    assert result.stop_reason == "error"
    assert "cannot be reached from the host" in result.errors[0]
    assert not model.requests


async def test_interrupted_while_it_waits_to_ask_again(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sandboxkit.agents.messages.model._FIRST_DELAY_S", 1000)
    monkeypatch.setattr("sandboxkit.agents.messages.model._LONGEST_DELAY_S", 1000)
    model = ScriptedModel([Reply([say("void void")], drop_after_events=4), say("Well.")])
    async with model, Session(sandbox, agent=agent(model)) as session:
        async for event in session.stream("Hello"):
            if isinstance(event, Retry):
                await session.interrupt()
        await session.run("Go on")
    assert "void" not in str(model.requests[1].messages)


async def test_a_prompt_that_cannot_be_sent(sandbox: Sandbox) -> None:
    model = ScriptedModel([say("Well.")])
    async with model, Session(sandbox, agent=agent(model)) as session:
        with pytest.raises(InvalidSpecError, match="surrogate"):
            await session.run("\ud800")
        assert (await session.run("Go on")).text == "Well."


@pytest.mark.parametrize("fault", ["drop", "fail"])
async def test_an_answer_that_breaks_off_is_asked_for_again(sandbox: Sandbox, fault: str) -> None:
    fields: dict[str, Any] = {f"{fault}_after_events": 4}
    broken = Reply([say("one two three")], **fields)
    model = ScriptedModel([broken, say("Whole."), *[broken] * 2])
    async with model, Session(sandbox, agent=agent(model, max_retries=1)) as session:
        events = [event async for event in session.stream("Count")]
        lost = await session.run("Again")
    kinds = [type(event) for event in events]
    assert kinds.index(Retry) > kinds.index(TextDelta)
    result = only(events, Finished)[0].result
    assert (result.text, result.turns) == ("Whole.", 1)
    assert result.usage.input_tokens == 200  # both were read
    assert result.metered is not None
    assert result.metered.usage == result.usage
    assert (lost.stop_reason, lost.is_error) == ("error", True)
    kind = "overloaded_error: Overloaded" if fault == "fail" else "connection_error: "
    assert lost.errors[0].startswith(kind)
    assert not model.unused


async def test_an_error_of_the_request_in_mid_stream_is_not_repeated(sandbox: Sandbox) -> None:
    broken = Reply([say("one two")], fail_after_events=3, failure=fail(400, "no"))
    model = ScriptedModel([broken, say("Never.")])
    async with model, Session(sandbox, agent=agent(model)) as session:
        assert (await session.run("Count")).errors == ("invalid_request_error: no",)
    assert len(model.requests) == 1


async def test_a_budget_ends_a_run_and_can_be_raised(sandbox: Sandbox) -> None:
    budget = sk.Budget(requests=2)
    model = ScriptedModel([*[call("bash", command="true")] * 2, say("Done.")])
    async with model, Session(sandbox, agent=agent(model), budget=budget) as session:
        result = await session.run("Work")
        budget.allow(requests=3)
        again = await session.run("Go on")
    assert (result.stop_reason, result.is_error) == ("max_budget", True)
    assert "Refused by the host" in result.errors[0]
    assert "the budget of 2 requests is spent" in result.errors[0]
    assert result.over_budget is not None
    assert (result.over_budget.limit, result.over_budget.allowed) == ("requests", 2)
    assert len(model.requests) == 3
    assert again.text == "Done."


async def test_a_model_that_is_not_allowed(sandbox: Sandbox) -> None:
    model = ScriptedModel([])
    async with model:
        mine = agent(model, model="claude-opus-5-5")
        async with Session(sandbox, agent=mine, models=["claude-haiku-*"]) as session:
            result = await session.run("Work")
    assert "claude-opus-5-5 is not allowed in this session" in result.errors[0]
    assert not model.requests


async def test_tools_that_reach_the_web_are_withheld(sandbox: Sandbox) -> None:
    model = ScriptedModel([say("one")])
    search = {"type": "web_search_20250305", "name": "web_search"}
    async with model, Session(sandbox, agent=agent(model, tools=[search])) as session:
        await session.run("Search")
    assert "web_search" not in model.requests[0].tools


async def test_a_price_that_nobody_knows_is_no_price(sandbox: Sandbox) -> None:
    model = ScriptedModel([say("one")])
    async with model, Session(sandbox, agent=agent(model, model="my-own")) as session:
        result = await session.run("Hello")
    assert result.cost_usd is None
    assert result.metered is not None
    assert result.metered.unpriced == 1


async def test_a_proxy_of_the_host_is_not_asked_for_the_endpoint(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "localhost")
    model = ScriptedModel([say("Here.")])
    async with model:
        mine = Messages(model_url=model.url.replace("127.0.0.1", "localhost"), max_retries=0)
        async with Session(sandbox, agent=mine) as session:
            result = await session.run("Hello")
    assert (result.text, result.errors) == ("Here.", ())


# --- other services -------------------------------------------------------------


WHOLE: list[dict[str, Any]] = [
    {
        "type": "message_start",
        "message": {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "m",
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": 12, "output_tokens": 1},
        },
    },
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    *EVENTS[1:2],
    {"type": "content_block_stop", "index": 0},
    *EVENTS[2:],
]


async def test_an_answer_that_is_none_of_the_api(sandbox: Sandbox) -> None:
    """The events that the gateway's tests have are not complete."""
    async with Service() as service:
        mine = Messages(model_url=service.url, max_retries=0)
        async with Session(sandbox, agent=mine) as session:
            result = await session.run("Hello")
    assert result.stop_reason == "error"
    assert result.errors[0].startswith("api_error: The answer cannot be read: TypeError")


async def test_bedrock_is_asked_by_its_own_client(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.gateway.service.EVENTS", WHOLE)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKID")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "the-aws-secret")
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    async with BedrockService({"AKID": "the-aws-secret"}, "eu-west-1") as service:
        upstream = sk.Bedrock(region="eu-west-1", base_url=service.url)
        result = await asked(sandbox, upstream)
        [request] = service.requests
    target = "/model/global.anthropic.claude-haiku-4-5-20251001-v1%3A0/invoke-with-response-stream"
    assert request.target == target
    assert result == ("Hi.", sk.Usage(12, 3))


async def test_vertex_is_asked_by_its_own_client(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.gateway.service.EVENTS", WHOLE)
    async with Service() as service:
        upstream = sk.Vertex(project="p", region="europe-west1", base_url=service.url)
        vars(upstream)["_credentials"] = _Google()  # as `google.auth` would find them
        result = await asked(sandbox, upstream)
        [request] = service.requests
    models = "/projects/p/locations/europe-west1/publishers/anthropic/models"
    assert request.target == f"{models}/claude-haiku-4-5:streamRawPredict"
    assert request.header("authorization") == "Bearer the-google-token"
    assert result == ("Hi.", sk.Usage(12, 3))


async def test_foundry_is_asked_as_the_messages_api(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.gateway.service.EVENTS", WHOLE)
    async with Service() as service:
        result = await asked(sandbox, sk.Foundry(base_url=service.url, api_key=KEY))
        [request] = service.requests
    assert (request.target, request.header("api-key")) == ("/v1/messages", KEY)
    assert result == ("Hi.", sk.Usage(12, 3))


class _Google:
    valid = True
    token = "the-google-token"


async def asked(sandbox: Sandbox, upstream: Upstream) -> tuple[str, sk.Usage]:
    mine = Messages(model="claude-haiku-4-5", upstream=upstream)
    async with Session(sandbox, agent=mine) as session:
        result = await session.run("Hello")
    assert (result.errors, session.meter.total.requests) == ((), 1)
    return result.text, result.usage
