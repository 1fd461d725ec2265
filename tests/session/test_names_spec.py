"""A named session is what was asked for, never silently less, or it is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import pytest

import sandboxkit as sk
from sandboxkit.agents.messages import Messages
from sandboxkit.errors import InvalidSpecError
from sandboxkit.session import Session
from sandboxkit.testing import Answer
from tests.session.memory import NAME, memory
from tests.session.quiet import Quiet

# what it is


@pytest.mark.parametrize(
    ("made", "asked", "field"),
    [
        ({}, {"cpu": 2}, "cpu=1"),
        ({"cpu": 2}, {"cpu": 1}, "cpu=2"),
        ({}, {"workdir": "/srv"}, "workdir='/work'"),
        ({}, {"user": "somebody"}, "user="),
        ({"ports": (80,)}, {"ports": (80, 81)}, "ports="),
        ({"idle_timeout_s": 60}, {"idle_timeout_s": 90}, "idle_timeout_s=60"),
        ({"image": "one"}, {"image": "two"}, "image='one'"),
        ({}, {"image": "two"}, "image="),
        ({"labels": {"team": "a"}}, {"labels": {"team": "b"}}, "'a'"),
        ({"network": "none"}, {"network": "open"}, "network"),
        ({"network": "open"}, {"network": "none"}, "network"),
    ],
)
async def test_never_silently_less(
    made: Mapping[str, Any], asked: Mapping[str, Any], field: str
) -> None:
    provider = memory(limits=frozenset({"cpu"}), images=True, expose=True)
    async with Session(provider, agent=Quiet(), name=NAME, **made) as one:
        sandbox = one.sandbox.id
    with pytest.raises(InvalidSpecError, match=f"in use by a sandbox with .*{field}"):
        await Session(provider, agent=Quiet(), name=NAME, **asked).__aenter__()
    for same in (made, dict[str, Any]()):
        async with Session(provider, agent=Quiet(), name=NAME, **same) as again:
            assert again.sandbox.id == sandbox
    await Session(provider, name=NAME).destroy()


async def test_the_environment_is_compared_and_not_shown() -> None:
    provider = memory()
    provider.on(
        ["cat", "/proc/self/environ"],
        lambda call: Answer(stdout="\0".join(f"{k}={v}" for k, v in call.env.items())),
    )
    async with Session(provider, agent=Quiet(), name=NAME, env={"MODE": "one"}):
        pass
    async with Session(provider, agent=Quiet(), name=NAME, env={"MODE": "one"}):
        pass
    with pytest.raises(InvalidSpecError) as refused:
        await Session(provider, agent=Quiet(), name=NAME, env={"MODE": "two"}).__aenter__()
    assert "env['MODE']" in str(refused.value)
    assert "one" not in str(refused.value).replace("one first", "")
    await Session(provider, name=NAME).destroy()


async def test_what_was_put_up_with_is_no_limit() -> None:
    provider = memory()
    async with Session(provider, agent=Quiet(), name=NAME, cpu=2, strict=False):
        pass
    async with Session(provider, agent=Quiet(), name=NAME, cpu=2, strict=False):
        pass
    with pytest.raises(InvalidSpecError, match="no limit"):
        await Session(provider, agent=Quiet(), name=NAME, cpu=2).__aenter__()
    await Session(provider, name=NAME).destroy()


# what is refused before anything is made


@pytest.mark.parametrize("name", ["", "a b", "ü", "x" * 64, "a/b", "a\n"])
async def test_what_is_no_name(name: str) -> None:
    with pytest.raises(InvalidSpecError, match="1 to 63 letters"):
        Session(memory(), name=name)


async def test_refused_combinations(engine: str) -> None:
    provider = memory()
    for names in (["docker", "e2b"], None, sk.Pool(provider, size=1)):
        with pytest.raises(InvalidSpecError, match=r"give (one|a) provider"):
            Session(names, name=NAME)
    async with sk.Sandbox.create(provider) as sandbox:
        with pytest.raises(InvalidSpecError, match="give one provider"):
            Session(sandbox, name=NAME)
    with pytest.raises(InvalidSpecError, match="either name or resume"):
        Session(provider, name=NAME, resume=str(uuid4()))
    with pytest.raises(InvalidSpecError, match="lease_s"):
        Session(provider, name=NAME, keep_s=0)
    with pytest.raises(InvalidSpecError, match="give it a name"):
        Session(provider, keep_s=60)
    in_memory = Messages(model_url="http://127.0.0.1:1", api_key="k")
    with pytest.raises(InvalidSpecError, match="store="):
        await Session(provider, agent=in_memory, name=NAME).__aenter__()
    assert provider.creates == 1


async def test_another_id_is_refused() -> None:
    provider, mine = memory(), str(uuid4())
    async with Session(provider, agent=Quiet(), name=NAME, id=mine) as one:
        assert one.id == mine
    with pytest.raises(InvalidSpecError, match=mine):
        await Session(provider, agent=Quiet(), name=NAME, id=str(uuid4())).__aenter__()
    async with Session(provider, agent=Quiet(), name=NAME, id=mine) as two:
        await two.destroy()
