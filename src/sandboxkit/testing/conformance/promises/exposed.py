"""Ports that the world can reach; or the refusal of it."""

from __future__ import annotations

import urllib.error
import urllib.request

import anyio.to_thread
import pytest

from sandboxkit.errors import UnsupportedError
from sandboxkit.providers.base import Exposed
from sandboxkit.sandbox import Sandbox
from sandboxkit.testing.conformance.fixtures import Making
from sandboxkit.testing.conformance.inside import until
from sandboxkit.testing.conformance.promise import note_refusal, promise

_PORT = 8123


def _get(exposed: Exposed) -> bytes:
    request = urllib.request.Request(f"{exposed.url}/hello", headers=dict(exposed.headers))  # noqa: S310
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - the backend's URL
        return bytes(answer.read())


async def _fetch(exposed: Exposed) -> bytes | None:
    try:
        return await anyio.to_thread.run_sync(_get, exposed)
    except urllib.error.HTTPError as refusal:
        refusal.close()
        return None
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return None


async def _serving(create: Making) -> Sandbox | None:
    """A sandbox that serves on the port; None where ports are refused, and that they are."""
    if not create.wired.capabilities().expose:
        sandbox = await create()
        with pytest.raises(UnsupportedError) as caught:
            await sandbox.ports.expose(_PORT)
        note_refusal(caught.value)
        assert caught.value.provider == create.wired.name
        return None
    sandbox = await create(ports=(_PORT,), network="open")
    await sandbox.files.write("served/hello", "from inside")
    argv = ["python3", "-m", "http.server", str(_PORT), "--directory", "served"]
    await sandbox.spawn(argv, detach=True)
    return sandbox


@promise
async def test_an_exposed_port_is_reached_from_outside(create: Making) -> None:
    """Its URL, with its headers, leads to the service inside."""
    sandbox = await _serving(create)
    if sandbox is None:
        return
    exposed = await sandbox.ports.expose(_PORT)
    assert exposed.url.startswith(("http://", "https://"))
    assert not exposed.url.endswith("/")

    async def reached() -> bool:
        return await _fetch(exposed) == b"from inside"

    await until(reached, within_s=20)


@promise
async def test_an_exposed_port_is_closed_without_its_headers(create: Making) -> None:
    """Where the backend gives headers, nobody gets in without them; and no repr shows them."""
    sandbox = await _serving(create)
    if sandbox is None:
        return
    exposed = await sandbox.ports.expose(_PORT)

    async def reached() -> bool:
        return await _fetch(exposed) is not None

    await until(reached, within_s=20)
    if exposed.headers:
        assert await _fetch(Exposed(exposed.url)) is None
    for value in exposed.headers.values():
        assert value not in repr(exposed)


@promise
async def test_a_port_that_was_not_declared_is_refused_or_works(create: Making) -> None:
    """Never a URL that leads nowhere."""
    if not create.wired.capabilities().expose:
        return
    sandbox = await create(ports=(_PORT,), network="open")
    try:
        exposed = await sandbox.ports.expose(_PORT + 1)
    except UnsupportedError as error:
        if str(_PORT + 1) not in error.message:
            raise
        return
    await sandbox.files.write("served/hello", "from inside")
    argv = ["python3", "-m", "http.server", str(_PORT + 1), "--directory", "served"]
    await sandbox.spawn(argv, detach=True)

    async def reached() -> bool:
        return await _fetch(exposed) == b"from inside"

    await until(reached, within_s=20)
