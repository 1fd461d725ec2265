"""How a `Sandbox` comes to be: made at a backend, or taken up where it lives."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sandboxkit.admission import admit, for_backend
from sandboxkit.channel.fallback import Fallback, refuse
from sandboxkit.channel.files import Files
from sandboxkit.lifecycle import (
    check_without_guest,
    choose,
    connect,
    described,
    finish,
    intended,
    kept,
    made,
    taken_up,
    upload,
)
from sandboxkit.limits import Patience, create_within_limits
from sandboxkit.network import Network, Outside, begun_with, opened
from sandboxkit.ownership import owned
from sandboxkit.places import Places
from sandboxkit.spec import SandboxSpec

if TYPE_CHECKING:
    from sandboxkit.channel.client import GuestClient
    from sandboxkit.failover import OneProvider
    from sandboxkit.keeper import Keeper
    from sandboxkit.providers.base import SandboxHandle, SandboxInfo, SandboxProvider


@dataclass(slots=True)
class Parts:
    """What a `Sandbox` is made of.

    Attributes:
        created: Whether it was made here, and so ends here.
        owns_provider: Whether the provider is closed with it.
    """

    provider: SandboxProvider
    handle: SandboxHandle
    channel: GuestClient | Fallback
    info: SandboxInfo
    keeper: Keeper
    network: Network
    created: bool
    owns_provider: bool


async def make(
    outside: Outside, chosen: OneProvider, spec: SandboxSpec, patience: Patience
) -> Parts:
    """Have a backend make one; see `Sandbox.create`."""
    async with contextlib.AsyncExitStack() as undo:
        provider, owns = await choose(chosen, undo)
        can = provider.capabilities()
        differences = admit(spec, can, provider.name)
        spec = owned(spec)
        inside = for_backend(spec)
        await provider.prepare(inside)
        entry = await intended(provider, spec, undo)
        handle, place = await create_within_limits(
            provider, lambda: made(provider, inside), patience
        )
        undo.callback(place.release)
        undo.push_async_callback(finish, handle.destroy)
        await entry.made(handle.info.id)
        channel = await connect(handle, can.guest_user, spec, undo)
        if isinstance(channel, Fallback):
            check_without_guest(spec, can)
        keeper = kept(handle, channel, place, entry, spec.lease_s, can=can, undo=undo)
        network = await opened(
            spec.network, channel, outside, undo, env=spec.env, owner=can.guest_user
        )
        if spec.artifacts and not can.artifacts:
            if isinstance(channel, Fallback):
                refuse("artifacts")
            await upload(spec.artifacts, Files(lambda: channel, user=can.guest_user))
        info = described(handle.info, channel, differences)
        undo.pop_all()
    parts = (provider, handle, channel, info, keeper, network)
    return Parts(*parts, created=True, owns_provider=owns)


async def take_up(
    chosen: OneProvider, sandbox_id: str, outside: Outside, spec: SandboxSpec | None = None
) -> Parts:
    """Take up one that lives; see `Sandbox.attach`.

    Args:
        chosen: The backend.
        sandbox_id: Its id.
        outside: The way out that this host keeps for it.
        spec: Whose lease holds it, and whose `env` wins over what the gateway adds; None is
            all defaults.
    """
    async with contextlib.AsyncExitStack() as undo:
        provider, owns = await choose(chosen, undo)
        spec, can = spec or SandboxSpec(), provider.capabilities()
        handle = await provider.attach(sandbox_id)
        undo.push_async_callback(finish, handle.aclose)
        policy, differences = begun_with(handle.info, outside)
        entry = await taken_up(provider, handle, spec.lease_s, undo)
        if handle.info.state == "paused":
            await handle.resume()
        channel = await connect(handle, can.guest_user, spec, undo)
        place = Places(None).claim()  # it was there before, and takes none from others
        keeper = kept(handle, channel, place, entry, spec.lease_s, can=can, undo=undo)
        network = await opened(policy, channel, outside, undo, env=spec.env, owner=can.guest_user)
        undo.pop_all()
    info = described(handle.info, channel, differences)
    parts = (provider, handle, channel, info, keeper, network)
    return Parts(*parts, created=False, owns_provider=owns)
