"""A session that was begun on Docker goes on anywhere: its conversation and its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sandboxkit.agents.claude_code import ClaudeCode
from sandboxkit.agents.messages import Messages
from sandboxkit.sandbox import Sandbox
from sandboxkit.session import Session
from sandboxkit.store import Store
from sandboxkit.testing import ScriptedModel, call, say
from tests.clouds.conftest import Backend

pytestmark = pytest.mark.timeout(300)  # the first builds an image with the CLI in it

MESS = r"""
mkdir -p deep/er && head -c 9000000 /dev/urandom > deep/big && printf 'a\000b' > 'odd "ü"'
ln -s deep/big link && : > empty && chmod 755 empty && echo done
"""
TOLD = r"""
find . -mindepth 1 -printf '%P %y %l\n' | sort; find . ! -type l -printf '%P %m\n' | sort
find . -type f -printf '%P %s %Ts\n' | sort
find . -type f -print0 | sort -z | xargs -0 sha256sum
"""


async def told(sandbox: Sandbox) -> str:
    return (await sandbox.sh(TOLD, check=True)).text


@pytest.mark.parametrize(("kind", "shell"), [(ClaudeCode, "Bash"), (Messages, "bash")])
async def test_from_docker_to_anywhere_and_back(
    backend: Backend, tmp_path: Path, kind: type[ClaudeCode | Messages], shell: str
) -> None:
    model = ScriptedModel(
        [
            *(call(shell, command=MESS), say("A violin.")),
            *(call(shell, command="echo there > there; rm empty"), say("As I said.")),
            say("Still a violin."),
        ]
    )
    async with model, Store(f"sqlite:///{tmp_path}/store.db") as store:
        mine = kind(model_url=model.url, api_key="the-real-key")
        async with Session("docker", agent=mine, store=store) as begun:
            await begun.run("Name an instrument")
            before = await told(begun.sandbox)
        options: Any = {"store": store, "agent": mine}
        async with Session.resume(begun.id, provider=backend.name, **options) as there:
            assert there.sandbox.info.provider == backend.name
            assert await told(there.sandbox) == before
            assert (await there.run("Which one?")).session_id == begun.id
            changed = await told(there.sandbox)
        async with Session.resume(begun.id, provider="docker", **options) as back:
            assert await told(back.sandbox) == changed != before
            assert (await back.run("Sure?")).text == "Still a violin."
    last = [block.text for message in model.requests[-1].messages for block in message.content]
    said = ("Name an instrument", "A violin.", "Which one?", "As I said.", "Sure?")
    assert tuple(text for text in last if text in said) == said
    assert await backend.alive() == set()
