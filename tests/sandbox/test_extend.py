"""`Sandbox.extend`: the end of a life-time is put off, or that is refused."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sandboxkit.errors import InvalidSpecError, UnsupportedError
from sandboxkit.providers.base import Capabilities, SandboxHandle
from sandboxkit.providers.registry import providers
from sandboxkit.sandbox import Sandbox
from sandboxkit.session import Session
from sandboxkit.spec import EXPIRES_LABEL, SandboxSpec
from sandboxkit.testing import MemoryProvider

_NEAR = timedelta(seconds=30)


def in_seconds(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


async def test_the_end_is_later_and_shown() -> None:
    async with Sandbox.create(MemoryProvider(), lifetime_s=600) as sandbox:
        label = sandbox.info.labels[EXPIRES_LABEL]
        before = sandbox.info.expires_at
        assert before
        assert abs(before - in_seconds(600)) < _NEAR
        after = await sandbox.extend(3600)
        assert after
        assert after == sandbox.info.expires_at
        assert abs(after - before - timedelta(hours=1)) < _NEAR
        assert sandbox.info.labels[EXPIRES_LABEL] == label  # as it was created


async def test_what_has_no_end_is_left_alone() -> None:
    async with Sandbox.create(MemoryProvider()) as sandbox:
        assert await sandbox.extend(60) is None
        assert sandbox.info.expires_at is None


@pytest.mark.parametrize("seconds", [0, -1, math.nan, math.inf])
async def test_what_is_no_time_is_refused(seconds: float) -> None:
    async with Sandbox.create(MemoryProvider(), lifetime_s=600) as sandbox:
        with pytest.raises(InvalidSpecError, match="above 0"):
            await sandbox.extend(seconds)


async def test_a_backend_that_cannot_refuses_before_anything_happens() -> None:
    can = Capabilities(isolation="none", network=frozenset(), lifetime=True)
    async with Sandbox.create(MemoryProvider(capabilities=can), lifetime_s=600) as sandbox:
        before = sandbox.info.expires_at
        with pytest.raises(UnsupportedError, match="cannot put that off") as refused:
            await sandbox.extend(60)
        assert (refused.value.op, refused.value.provider) == ("extend", "memory")
        assert sandbox.info.expires_at == before


def test_which_backends_can() -> None:
    """None of them that ends a sandbox itself keeps quiet about it: Modal cannot."""
    can = {name: providers.make(name).capabilities() for name in ("docker", "e2b", "daytona")}
    assert {name for name, one in can.items() if one.lifetime} == {"e2b", "daytona"}
    assert {name for name, one in can.items() if one.extend} == {"e2b", "daytona"}
    modal = providers.make("modal").capabilities()
    assert (modal.lifetime, modal.extend) == (True, False)


class Ending(MemoryProvider):
    """A backend that ends a sandbox itself; it notes what it is told of the end."""

    def __init__(self) -> None:
        can = Capabilities(
            isolation="none", network=frozenset(), lifetime=True, extend=True, renew=True
        )
        super().__init__(capabilities=can)
        self.told: list[float] = []

    async def create(self, spec: SandboxSpec) -> SandboxHandle:
        return self._noted(await super().create(spec))

    async def attach(self, sandbox_id: str) -> SandboxHandle:
        return self._noted(await super().attach(sandbox_id))

    def _noted(self, handle: SandboxHandle) -> SandboxHandle:
        async def extend(seconds: float) -> None:
            self.told.append(seconds)

        async def renew(_seconds: float) -> None:
            return

        methods: Mapping[str, Any] = {"extend": extend, "renew": renew}
        for name, method in methods.items():
            setattr(handle, name, method)
        return handle


async def test_the_backend_is_told_also_of_what_another_host_has_put_off() -> None:
    backend = Ending()
    async with Sandbox.create(backend, lifetime_s=600) as sandbox:
        await sandbox.extend(3600)
        assert max(backend.told) == pytest.approx(4200, abs=30)
        backend.told.clear()
        other = await Sandbox.attach(backend, sandbox.id)
        assert other.info.expires_at
        assert abs(other.info.expires_at - in_seconds(4200)) < _NEAR
        await other.detach(keep_s=60)
        assert backend.told
        assert min(backend.told) == pytest.approx(4200, abs=30)


async def test_a_session_passes_it_on(engine: str) -> None:
    from sandboxkit.agents.messages import Messages

    agent = Messages(model_url="http://127.0.0.1:9", api_key="key")
    async with Session("docker", agent=agent, lifetime_s=600) as session:
        after = await session.extend(3600)
        assert after
        assert after == session.sandbox.info.expires_at
        assert abs(after - in_seconds(4200)) < timedelta(seconds=120)


@pytest.mark.slow
async def test_it_outlives_its_first_end(engine: str) -> None:
    async with Sandbox.create("docker", lifetime_s=10) as sandbox:
        await sandbox.extend(600)
        assert (await sandbox.exec(["sleep", "12"])).exit_code == 0
