"""A container as the engine sees it: how it is, how it ended, and its removal."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from functools import partial
from typing import Final

import anyio

from sandboxkit.errors import ImageError, OperationTimeoutError, SandboxDiedError, SandboxError
from sandboxkit.providers.base import SandboxInfo
from sandboxkit.providers.docker.api import Api, Json
from sandboxkit.providers.docker.engine import Engine
from sandboxkit.providers.docker.failures import status_of
from sandboxkit.providers.docker.stream import Outcome
from sandboxkit.providers.exits import code_of
from sandboxkit.spec import EXPIRES_LABEL

_REMOVE_S: Final = 60.0
_POLL_S: Final = 0.01
_EVENTS_S: Final = 3600
_KILLED: Final = 137
_NO_SHELL: Final = frozenset({126, 127})


async def inspect_exec(engine: Engine, container: str, exec_id: str) -> Json | None:
    """What the engine knows of an exec; None where it does not know it."""
    try:
        return await engine.call(
            "inspect", lambda api: api.exec_inspect(exec_id), sandbox_id=container
        )
    except SandboxError as error:
        if status_of(error) == 404:
            return None
        raise


async def all_started(engine: Engine, container: str, *, within_s: float) -> None:
    """Wait until no program is just being started in a container.

    A container that is frozen in the middle of a start hangs with all that is asked of it
    later (seen on 20.10). That may be a start which was given up here, and is still done there.
    """
    with anyio.move_on_after(within_s):
        while True:
            await anyio.sleep(_POLL_S)  # a start may be on its way
            found = await engine.call(
                "inspect", lambda api: api.inspect_container(container), sandbox_id=container
            )
            programs = [await inspect_exec(engine, container, i) for i in found["ExecIDs"] or ()]
            if not any(said and said["Running"] and not said["Pid"] for said in programs):
                return


async def look_at_exec(engine: Engine, container: str, exec_id: str) -> Outcome:
    """What has become of a program that was started by an exec."""
    said = await inspect_exec(engine, container, exec_id)
    if said is None:
        # Unknown in a container that lives: the engine was restarted under it.
        main = await look_at_main(engine, container)
        return Outcome("lost" if main.state == "running" else "ended")
    code = said.get("ExitCode")
    if code is None or said.get("Running"):
        return Outcome("running")
    return Outcome("ended", code_of(code))


async def look_at_main(engine: Engine, container: str) -> Outcome:
    """What has become of the container's main process."""
    try:
        found = await engine.call(
            "inspect", lambda api: api.inspect_container(container), sandbox_id=container
        )
    except SandboxError as error:
        if status_of(error) == 404:
            code = _exit_code(await _last_events(engine, container))
            return Outcome("ended", code_of(code))
        raise
    if found["State"].get("Running"):
        return Outcome("running")
    code = found["State"].get("ExitCode")
    return Outcome("ended", code_of(code))


async def death_of(engine: Engine, info: SandboxInfo) -> SandboxError:
    """The error for a container that is gone or stopped: why, as far as is known."""
    events = await _last_events(engine, info.id)
    exit_code = _exit_code(events)
    if exit_code in _NO_SHELL:
        return ImageError(
            f"The image {info.effective.image} cannot run /bin/sh, which sandboxkit needs. "
            "Use an image with a shell.",
            op="spawn",
            provider="docker",
            sandbox_id=info.id,
            retryable=False,
        )
    expires = info.labels.get(EXPIRES_LABEL)
    if exit_code == _KILLED and any(event["Action"] == "oom" for event in events):
        code, what = "oom", "was ended because it ran out of memory"
    elif expires and datetime.fromisoformat(expires) <= datetime.now(UTC):
        code, what = "expired", "has reached the end of its life-time"
    elif exit_code == _KILLED:
        code, what = "killed", "was killed from outside"
    else:
        code, what = "died", "has ended"
    return SandboxDiedError(
        f"The container {what}. Create another one.",
        code=code,
        op="spawn",
        provider="docker",
        sandbox_id=info.id,
        retryable=False,
    )


async def _last_events(engine: Engine, container: str) -> list[Json]:
    """An ended container removes itself at once; the engine's last events remain."""
    kinds = {"container": container, "event": ["oom", "die"]}

    def last_events(api: Api, now: int) -> list[Json]:
        return list(api.events(since=now - _EVENTS_S, until=now + 1, filters=kinds, decode=True))

    try:
        now = int((await engine.clock()).timestamp())
        return await engine.call("events", partial(last_events, now=now))
    except SandboxError:
        return []


def _exit_code(events: Iterable[Json]) -> int | None:
    for event in events:
        code = event["Actor"]["Attributes"].get("exitCode")
        if code is not None:
            return int(code)
    return None


async def remove(engine: Engine, name: str) -> None:
    """Remove a container with its anonymous volumes, and wait until it is gone.

    Args:
        engine: Where it is.
        name: Its id or name; gone already is success.

    Raises:
        OperationTimeoutError: It is still there after a minute.
    """
    with anyio.move_on_after(_REMOVE_S):
        while not await _removed(engine, name):  # noqa: ASYNC110 - the engine tells nobody
            await anyio.sleep(_POLL_S)
        return
    raise OperationTimeoutError(
        "The container could not be removed within a minute. `docker rm -f` says why.",
        op="destroy",
        provider="docker",
        sandbox_id=name,
        retryable=True,
    )


async def _removed(engine: Engine, name: str) -> bool:
    try:
        await engine.call(
            "destroy",
            lambda api: api.remove_container(name, force=True, v=True),
            sandbox_id=name,
        )
    except SandboxError as error:
        status = status_of(error)
        if status in {409, 500}:  # being removed by another call, or a mount still busy
            return False
        if status != 404:
            raise
    return True
