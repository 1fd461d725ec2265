"""Putting off the end of a sandbox's life-time, in the guest and at the backend."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import anyio

from sandboxkit.errors import InvalidSpecError, OperationTimeoutError, UnsupportedError

if TYPE_CHECKING:
    from datetime import datetime

    from sandboxkit.channel.client import GuestClient
    from sandboxkit.keeper import Keeper
    from sandboxkit.providers.base import SandboxProvider

_ANSWER_S = 30.0


def check_extend(provider: SandboxProvider, sandbox_id: str, seconds: float) -> None:
    """Refuse what is no time, and a backend that ends a sandbox when it has once said so.

    Raises:
        InvalidSpecError: `seconds` is not a number above 0.
        UnsupportedError: The backend's own end cannot be moved.
    """
    if not (seconds > 0 and math.isfinite(seconds)):
        raise InvalidSpecError(f"extend takes a number of seconds above 0, not {seconds!r}")
    can = provider.capabilities()
    if can.lifetime and not can.extend:
        raise UnsupportedError(
            f"{provider.name} ends a sandbox at the time that was set when it was created, and "
            "cannot put that off: create it with a longer lifetime_s, or go on in another one "
            "(a snapshot, or Session.resume)",
            op="extend",
            provider=provider.name,
            sandbox_id=sandbox_id,
        )


async def extend(client: GuestClient, keeper: Keeper, seconds: float) -> datetime | None:
    """Put the end off; see `Sandbox.extend`.

    The backend first: if it fails, nothing has changed; if the guest does, it ends the
    sandbox when it would have, and the backend's later end does no harm.
    """
    left = client.term.left_s
    if left is None:
        return None
    await keeper.extend(left + seconds)
    channel = client.channel({"op": "extend", "seconds": seconds})
    try:
        with anyio.fail_after(_ANSWER_S):
            said = await channel.finished()
        channel.raise_error()
    except TimeoutError as error:
        raise OperationTimeoutError(
            f"the guest did not answer within {_ANSWER_S:g} s; ask `info.expires_at`",
            op="extend",
        ) from error
    finally:
        channel.close()
    client.term.told(said)
    return client.term.ends_at
