"""A list of providers: which reasons go on to the next, and which do not."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import sandboxkit as sk
from sandboxkit.agents import Agent, Conversation
from sandboxkit.errors import (
    AgentError,
    AuthenticationError,
    CapacityError,
    ConnectionLostError,
    ImageError,
    InvalidSpecError,
    OperationTimeoutError,
    ProviderNotFoundError,
    ProviderNotInstalledError,
    ProviderUnavailableError,
    SandboxDiedError,
    SandboxError,
    UnsupportedError,
)
from sandboxkit.progress import Progress
from sandboxkit.providers.base import ByteChannel, Capabilities, Command, SandboxHandle
from sandboxkit.spec import SandboxSpec
from sandboxkit.testing import MemoryProvider


class First(MemoryProvider):
    name = "first"


class Second(MemoryProvider):
    name = "second"


class Third(MemoryProvider):
    name = "third"


@pytest.fixture
def first() -> First:
    return First()


@pytest.fixture
def second() -> Second:
    return Second()


async def living(provider: MemoryProvider) -> list[str]:
    return [info.id async for info in provider.list({})]


@pytest.mark.parametrize(
    ("error", "made"),
    [
        (CapacityError("all machines are taken"), False),
        (CapacityError("too many requests", retry_after_s=0.01), False),
        (ProviderUnavailableError("connection refused"), False),
        (ProviderUnavailableError("502, when it had been made"), True),
        (OperationTimeoutError("no answer, though it was made"), True),
    ],
    ids=lambda value: value.message if isinstance(value, SandboxError) else "",
)
async def test_outages_and_no_room_go_on_to_the_next(
    first: First, second: Second, error: SandboxError, made: bool
) -> None:
    first.refuse(error, made=made)
    async with sk.Sandbox.create([first, second]) as sandbox:
        assert sandbox.info.provider == "second"
        assert await living(second) == [sandbox.id]
        assert await living(first) == []
    assert (first.creates, second.creates) == (1, 1)  # a refusal is not waited for
    assert await living(second) == []


@pytest.mark.parametrize(
    "error",
    [
        AuthenticationError("the key was refused"),
        UnsupportedError("no such limit"),
        ImageError("no such image"),
        SandboxDiedError("it ended at once"),
        SandboxError("something else"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_what_the_next_would_not_do_better_is_raised_at_once(
    first: First, second: Second, error: SandboxError
) -> None:
    first.refuse(error)
    with pytest.raises(type(error), match=error.message) as caught:
        await sk.Sandbox.create([first, second])
    assert type(caught.value) is type(error)
    assert second.creates == 0


def _not_installed() -> MemoryProvider:
    raise ProviderNotInstalledError('it needs a package: pip install "sandboxkit[cloud]"')


async def test_all_are_looked_at_before_the_first_is_asked(first: First) -> None:
    sk.register("not-installed", _not_installed)
    with pytest.raises(ProviderNotInstalledError, match="pip install"):
        await sk.Sandbox.create([first, "not-installed"])
    with pytest.raises(ProviderNotFoundError, match="secnod"):
        await sk.Sandbox.create([first, "secnod"])
    with pytest.raises(InvalidSpecError, match="memory_gib"):
        await sk.Sandbox.create([first, "secnod"], memory_gib=-1)
    can = Capabilities(isolation="none", limits=frozenset({"cpu"}))
    able = First(capabilities=can)
    with pytest.raises(UnsupportedError, match=r"cpu=2.*second"):
        await sk.Sandbox.create([able, Second()], cpu=2)
    assert (first.creates, able.creates) == (0, 0)


async def test_an_empty_list_is_refused() -> None:
    with pytest.raises(InvalidSpecError, match="empty"):
        await sk.Sandbox.create([])


async def test_a_cancelled_call_does_not_go_on(second: Second) -> None:
    began, go = asyncio.Event(), asyncio.Event()

    class Slow(First):
        async def create(self, spec: SandboxSpec) -> SandboxHandle:
            began.set()
            await go.wait()
            return await super().create(spec)

    slow = Slow()
    creating = asyncio.ensure_future(sk.Sandbox.create([slow, second]))
    await began.wait()
    creating.cancel()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await creating
    assert (slow.creates, second.creates) == (1, 0)
    assert await living(slow) == []


async def test_a_sandbox_that_cannot_be_connected_is_removed(second: Second) -> None:
    class Deaf(SandboxHandle):
        def __init__(self, inner: SandboxHandle) -> None:
            self.info = inner.info
            self._inner = inner

        async def spawn(self, command: Command) -> ByteChannel:
            raise ConnectionLostError("the connection broke")

        async def destroy(self) -> None:
            await self._inner.destroy()

    class Unreachable(First):
        async def create(self, spec: SandboxSpec) -> SandboxHandle:
            return Deaf(await super().create(spec))

    unreachable = Unreachable()
    async with sk.Sandbox.create([unreachable, second]) as sandbox:
        assert sandbox.info.provider == "second"
    assert unreachable.creates == 1
    assert await living(unreachable) == []


async def test_no_room_anywhere_tells_the_reason_of_each(first: First, second: Second) -> None:
    first.refuse(CapacityError("no machine in eu-west", retry_after_s=90))
    second.refuse(CapacityError("the plan has 20", retry_after_s=70))
    with pytest.raises(CapacityError) as caught:
        await sk.Sandbox.create([first, second])
    said = str(caught.value)
    assert "none of the 2 providers" in said
    assert "first: no machine in eu-west (capacity)" in said
    assert "second: the plan has 20 (capacity)" in said
    assert caught.value.retry_after_s == 70
    assert isinstance(caught.value.__cause__, CapacityError)


async def test_an_outage_among_the_reasons_is_an_outage(first: First, second: Second) -> None:
    first.refuse(CapacityError("full"))
    second.refuse(ProviderUnavailableError("503"))
    with pytest.raises(ProviderUnavailableError, match=r"first: full.*second: 503") as caught:
        await sk.Sandbox.create([first, second])
    assert caught.value.retryable
    assert caught.value.code == "provider_unavailable"


async def test_a_later_error_says_what_came_before_it(first: First, second: Second) -> None:
    first.refuse(ProviderUnavailableError("503"))
    second.refuse(AuthenticationError("bad key"))
    with pytest.raises(AuthenticationError, match="bad key") as caught:
        await sk.Sandbox.create([first, second, Third()])
    assert caught.value.__notes__ == ["asked before it: first: 503 (provider_unavailable)"]


async def test_a_single_one_fails_as_if_there_were_no_list(first: First) -> None:
    first.refuse(ProviderUnavailableError("503"))
    with pytest.raises(ProviderUnavailableError) as caught:
        await sk.Sandbox.create([first])
    assert caught.value.message == "503"


async def test_where_all_places_are_taken_it_goes_on_at_once(second: Second) -> None:
    can = Capabilities(isolation="none", network=frozenset(), concurrent=1)
    small = First(capabilities=can)
    async with sk.Sandbox.create([small, second]) as one:
        async with sk.Sandbox.create([small, second]) as other:
            assert (one.info.provider, other.info.provider) == ("first", "second")
        assert small.creates == 1


async def test_an_account_that_was_told_to_wait_is_not_asked_again(second: Second) -> None:
    told = First()
    told.refuse(CapacityError("too many", retry_after_s=3600))
    for _ in range(3):
        async with sk.Sandbox.create([told, second]) as sandbox:
            assert sandbox.info.provider == "second"
    assert told.creates == 1


async def test_the_last_one_is_waited_for(first: First, second: Second) -> None:
    first.refuse(ProviderUnavailableError("503"))
    second.refuse(CapacityError("too many", retry_after_s=0.01), times=2)
    async with sk.Sandbox.create([first, second]) as sandbox:
        assert sandbox.info.provider == "second"
    assert second.creates == 3


async def test_names_and_differences_are_those_of_the_one_that_was_taken() -> None:
    first = First()
    first.refuse(ProviderUnavailableError("503"))
    can = Capabilities(isolation="microvm", limits=frozenset({"cpu", "pids"}))
    sk.register("failover-first", lambda: first)
    sk.register("failover-second", lambda: Second(capabilities=can))
    told: list[Progress] = []
    async with sk.Sandbox.create(
        ("failover-first", "failover-second"), on_progress=told.append
    ) as sandbox:
        assert sandbox.info.effective.isolation == "microvm"
        fields = {difference.field for difference in sandbox.info.differences}
        assert {"resources.memory_gib", "network"} & fields
        assert not fields & {"resources.cpu", "resources.pids"}
    assert [report.step for report in told] == ["going on from failover-first: 503"]


class Missing(Agent):
    """An agent that notes where it should start, and does not."""

    name = "missing"
    interface_version = 1
    asked: str | None = None

    async def prepare(self, spec: SandboxSpec) -> SandboxSpec:
        return spec

    async def start(self, sandbox: sk.Sandbox, *_: Any, **__: Any) -> Conversation:
        self.asked = sandbox.info.provider
        raise AgentError("there is none")


async def test_a_session_takes_a_list(first: First, second: Second) -> None:
    first.refuse(OperationTimeoutError("no answer"), made=True)
    agent = Missing()
    with pytest.raises(AgentError, match="there is none"):
        async with sk.Session([first, second], agent=agent):
            raise AssertionError
    assert agent.asked == "second"
    assert await living(first) == await living(second) == []
