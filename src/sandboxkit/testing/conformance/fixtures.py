"""The fixtures of the kit. A provider's test file overrides `provider`, and what it must."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator, Mapping
from typing import Any

import anyio
import pytest
import pytest_asyncio

from sandboxkit.errors import SandboxError
from sandboxkit.providers.base import Encoding, SandboxHandle, SandboxInfo, SandboxProvider
from sandboxkit.sandbox import Sandbox
from sandboxkit.testing.conformance.wires import WiredProvider

LABEL = "conformance"
_QUICK_S = 10.0

Fields = Mapping[str, Any]


class Making:
    """Makes sandboxes that belong to one test, and ends those that it has left."""

    def __init__(self, wired: WiredProvider, fields: Fields) -> None:
        self.wired = wired
        self.label = {LABEL: f"test-{secrets.token_hex(6)}"}
        self._fields = fields
        self._made: list[Sandbox] = []

    async def __call__(self, **fields: Any) -> Sandbox:
        """A new sandbox, with the provider's own `spec_fields` and these."""
        labels = {**self.label, **fields.pop("labels", {})}
        chosen: dict[str, Any] = {**self._fields, **fields, "labels": labels}
        sandbox = await Sandbox.create(self.wired, **chosen)
        self._made.append(sandbox)
        return sandbox

    async def attach(self, sandbox_id: str) -> Sandbox:
        """Take up a sandbox as another host would."""
        sandbox = await Sandbox.attach(self.wired, sandbox_id)
        self._made.append(sandbox)
        return sandbox

    async def alive(self) -> list[SandboxInfo]:
        """What there is of this test's sandboxes."""
        listed = [info async for info in self.wired.list(self.label)]
        return [info for info in listed if info.labels.get(LABEL) == self.label[LABEL]]

    async def end(self) -> None:
        """End everything, whatever state it is in."""
        for sandbox in reversed(self._made):
            with contextlib.suppress(SandboxError, TimeoutError):
                await sandbox.aclose()
        for info in await self.alive():
            with contextlib.suppress(SandboxError, TimeoutError):
                await (await self.wired.attach(info.id)).destroy()


class Shelf:
    """What the tests of a module share: one sandbox, made when it is first needed."""

    def __init__(self) -> None:
        self._making: Making | None = None
        self._sandbox: Sandbox | None = None

    async def take(self, wired: WiredProvider, fields: Fields) -> Sandbox:
        """The shared sandbox; a new one if a test has broken it."""
        if self._sandbox is not None and not await _is_well(self._sandbox):
            await self.clear()
        if self._sandbox is None:
            self._making = Making(wired, fields)
            self._sandbox = await self._making()
        return self._sandbox

    def holds(self, provider: SandboxProvider) -> bool:
        """Whether the shared sandbox was made by this provider object."""
        return self._making is not None and self._making.wired.inner is provider

    def foreign(self) -> list[bytes]:
        """See `WiredProvider.foreign`."""
        return self._making.wired.foreign() if self._making is not None else []

    async def clear(self) -> None:
        """End the shared sandbox, and let go of its provider."""
        making, self._making, self._sandbox = self._making, None, None
        if making is not None:
            await making.end()
            await making.wired.aclose()


async def _is_well(sandbox: Sandbox) -> bool:
    try:
        with anyio.fail_after(_QUICK_S):
            return (await sandbox.exec(["true"])).exit_code == 0
    except (SandboxError, TimeoutError):
        return False


@pytest.fixture
def provider() -> SandboxProvider:
    """The provider under test: the one fixture that every test file defines.

    A new object for each test, or one for the module; the kit closes it.
    """
    raise pytest.UsageError("define the fixture `provider`: it returns the provider under test")


@pytest.fixture
def spec_fields() -> Fields:
    """Fields of `SandboxSpec` for every sandbox; override it to name an image or template."""
    return {}


@pytest.fixture
def encoding() -> Encoding | None:
    """The encoding of all connections; None is the provider's own."""
    return None


@pytest.fixture
def flood_bytes() -> int:
    """How much the flooding command writes; a slow run may ask for more."""
    return 200_000_000


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def shelf() -> AsyncIterator[Shelf]:
    """What the tests of a module share."""
    shared = Shelf()
    yield shared
    await shared.clear()


@pytest_asyncio.fixture(loop_scope="module")
async def wired(
    provider: SandboxProvider, encoding: Encoding | None, shelf: Shelf
) -> AsyncIterator[WiredProvider]:
    """The provider under test, with connections that the kit can cut."""
    under_test = WiredProvider(provider, encoding)
    yield under_test
    if not shelf.holds(provider):
        await under_test.aclose()
    foreign = under_test.foreign() + shelf.foreign()
    assert not foreign, f"more than lines of ASCII has crossed a connection of text: {foreign}"


@pytest_asyncio.fixture(loop_scope="module")
async def sandbox(wired: WiredProvider, spec_fields: Fields, shelf: Shelf) -> Sandbox:
    """A sandbox that the cheap tests share."""
    return await shelf.take(wired, spec_fields)


@pytest_asyncio.fixture(loop_scope="module")
async def create(wired: WiredProvider, spec_fields: Fields) -> AsyncIterator[Making]:
    """A maker of sandboxes of the test's own; it takes the fields of a spec."""
    making = Making(wired, spec_fields)
    yield making
    await making.end()


@pytest_asyncio.fixture(loop_scope="module")
async def folder(sandbox: Sandbox) -> str:
    """An empty directory in the shared sandbox, of this test's own."""
    path = f"{sandbox.workdir}/test-{secrets.token_hex(6)}"
    await sandbox.files.make_dir(path)
    return path


@pytest_asyncio.fixture(loop_scope="module")
async def handle(sandbox: Sandbox, wired: WiredProvider) -> SandboxHandle:
    """The shared sandbox, as its provider sees it."""
    return await wired.attach(sandbox.id)


__all__ = [
    "create",
    "encoding",
    "flood_bytes",
    "folder",
    "handle",
    "provider",
    "sandbox",
    "shelf",
    "spec_fields",
    "wired",
]
