"""The `SessionStore` of the SDK, by its own kit and beyond it, on both databases."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from claude_agent_sdk import SessionKey, list_sessions_from_store
from claude_agent_sdk.testing import run_session_store_conformance

from sandboxkit.store import Store
from sandboxkit.store.transcripts import Transcripts

KEY: SessionKey = {"project_key": "-work", "session_id": "12345678-1234-4234-8234-123456789abc"}


def entry(**fields: Any) -> Any:
    return {"type": "user", **fields}


async def test_the_kit_of_the_sdk(store: Store) -> None:
    made = 0

    async def fresh() -> Transcripts:
        nonlocal made
        made += 1
        for project in ("proj", "other", "other-proj"):
            for session in await store.transcripts().list_sessions(project):
                await store.transcripts().delete(
                    {"project_key": project, "session_id": session["session_id"]}
                )
            for stray in ("sess", "main", "sess2"):
                await store.transcripts().delete({"project_key": project, "session_id": stray})
        return store.transcripts()

    await run_session_store_conformance(fresh)
    assert made > 10, "no part of it was left out"


async def test_what_cannot_be_in_json_columns_comes_back(store: Store) -> None:
    odd = entry(text="a\0b \ud800 ü 🎻", deep=[{"x": None, "y": 1e300, "z": 2**70}], uuid="1")
    await store.transcripts().append(KEY, [odd])
    assert await store.transcripts().load(KEY) == [odd]


async def test_an_entry_with_a_uuid_is_there_once(store: Store) -> None:
    transcripts = store.transcripts()
    first, second = entry(uuid="a"), entry(uuid="b")
    await transcripts.append(KEY, [first, entry(title="x")])
    await transcripts.append(KEY, [first, second, entry(title="x")])
    assert await transcripts.load(KEY) == [first, entry(title="x"), second, entry(title="x")]


async def test_many_at_once_lose_nothing_and_keep_their_order(store: Store, url: str) -> None:
    """Two programs, ten writers each, on the same transcript."""
    async with Store(url) as other:

        async def write(who: int) -> None:
            transcripts = (store if who % 2 else other).transcripts()
            for n in range(10):
                await transcripts.append(KEY, [entry(who=who, n=n, part=p) for p in range(3)])

        await asyncio.gather(*map(write, range(20)))
    loaded: Any = await store.transcripts().load(KEY)
    assert len(loaded) == 600
    for who in range(20):
        mine = [(e["n"], e["part"]) for e in loaded if e["who"] == who]
        assert mine == [(n, p) for n in range(10) for p in range(3)]


async def test_a_cancelled_append_is_whole_or_not_at_all(store: Store) -> None:
    transcripts = store.transcripts()
    await transcripts.append(KEY, [entry(n=-1)])
    for n in range(10):
        task = asyncio.ensure_future(transcripts.append(KEY, [entry(n=n)] * 700))
        for _ in range(n):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    loaded: Any = await transcripts.load(KEY)
    counts = {n: sum(e["n"] == n for e in loaded) for n in range(10)}
    assert set(counts.values()) <= {0, 700}
    await transcripts.append(KEY, [entry(n=99)])  # the connections are whole


async def test_the_lists_of_the_sdk(store: Store) -> None:
    line = {"type": "user", "message": {"role": "user", "content": "Name an instrument"}}
    stamp = {"timestamp": "2026-01-01T00:00:00.000Z", "sessionId": KEY["session_id"]}
    key: SessionKey = {**KEY, "project_key": "-tmp"}
    await store.transcripts().append(key, [entry(**{**line, **stamp, "uuid": "1"})])
    (found,) = await list_sessions_from_store(store.transcripts(), directory="/tmp")
    assert (found.session_id, found.first_prompt) == (KEY["session_id"], "Name an instrument")
    assert json.dumps(await store.transcripts().list_session_summaries("-tmp"))
