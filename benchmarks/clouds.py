"""What a provider costs over the bare SDK of its cloud, on the emulators of the tests.

An emulated cloud has no network and no queue: the times say what the client side and the
protocol cost, not what the real service takes. What a bare SDK asks for, the emulator does
by the engine: a command is one `docker exec` more than sandboxkit's, which its guest starts.
"""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import anyio.to_thread
from tests.emulators.daytona import DaytonaEmulator
from tests.emulators.e2b import E2BEmulator
from tests.emulators.modal import ModalEmulator

import sandboxkit as sk
from benchmarks.measure import Row, Samples, Work, interleaved
from sandboxkit.providers.base import SandboxProvider
from sandboxkit.providers.daytona import DaytonaProvider
from sandboxkit.providers.docker.bringup import bring_up
from sandboxkit.providers.e2b import E2BProvider
from sandboxkit.providers.modal import ModalProvider

if TYPE_CHECKING:
    from tests.emulators.emulator import Emulator

_CONTENT = b"x" * 100


class Bare(ABC):
    """A cloud's own SDK, used as its documentation shows."""

    async def open(self) -> None:
        """Make what all calls share."""
        return

    @abstractmethod
    async def create(self) -> Any:
        """A sandbox."""

    @abstractmethod
    async def exec(self, box: Any) -> None:
        """Run `true`."""

    @abstractmethod
    async def write(self, box: Any) -> None:
        """Write 100 bytes."""

    @abstractmethod
    async def destroy(self, box: Any) -> None:
        """End it."""

    async def aclose(self) -> None:
        """Let go."""
        return


class BareE2B(Bare):
    """`e2b`."""

    async def create(self) -> Any:
        """See `Bare`."""
        from e2b import AsyncSandbox

        return await AsyncSandbox.create()

    async def exec(self, box: Any) -> None:
        """See `Bare`."""
        await box.commands.run("true", timeout=0)

    async def write(self, box: Any) -> None:
        """See `Bare`."""
        await box.files.write("/tmp/small", _CONTENT)

    async def destroy(self, box: Any) -> None:
        """See `Bare`."""
        await box.kill()


class BareModal(Bare):
    """`modal`."""

    async def open(self) -> None:
        """See `Bare`."""
        import modal

        app: Any = modal.App
        self._app: Any = await app.lookup.aio("bench", create_if_missing=True)
        self._image = modal.Image.debian_slim()

    async def create(self) -> Any:
        """See `Bare`."""
        import modal

        sandboxes: Any = modal.Sandbox
        return await sandboxes.create.aio(
            "sleep", "infinity", app=self._app, image=self._image, timeout=600
        )

    async def exec(self, box: Any) -> None:
        """See `Bare`."""
        process: Any = await box.exec.aio("true")
        await process.wait.aio()

    async def write(self, box: Any) -> None:
        """See `Bare`."""
        await box.filesystem.write_bytes.aio(_CONTENT, "/tmp/small")

    async def destroy(self, box: Any) -> None:
        """See `Bare`."""
        await box.terminate.aio()


class BareDaytona(Bare):
    """`daytona`."""

    async def open(self) -> None:
        """See `Bare`."""
        from daytona import AsyncDaytona

        self._client: Any = AsyncDaytona()

    async def create(self) -> Any:
        """See `Bare`."""
        return await self._client.create()

    async def exec(self, box: Any) -> None:
        """See `Bare`."""
        await box.process.exec("true")

    async def write(self, box: Any) -> None:
        """See `Bare`."""
        await box.fs.upload_file(_CONTENT, "/tmp/small")

    async def destroy(self, box: Any) -> None:
        """See `Bare`."""
        await self._client.delete(box)

    async def aclose(self) -> None:
        """See `Bare`."""
        await self._client.close()


CLOUDS: Mapping[str, tuple[type[Emulator], type[Bare]]] = {
    "e2b": (E2BEmulator, BareE2B),
    "modal": (ModalEmulator, BareModal),
    "daytona": (DaytonaEmulator, BareDaytona),
}

PROVIDERS: Mapping[str, Callable[..., SandboxProvider]] = {
    "e2b": E2BProvider,
    "modal": ModalProvider,
    "daytona": DaytonaProvider,
}


async def measure(rounds: int) -> list[Row]:
    """The rows of all clouds."""
    host = (await bring_up()).host
    rows: list[Row] = []
    for name, (kind, bare) in CLOUDS.items():
        emulator = kind(host)
        await anyio.to_thread.run_sync(emulator.__enter__)
        try:
            os.environ.update(emulator.environment())
            rows += await _cloud(name, bare(), rounds)
        finally:
            await anyio.to_thread.run_sync(emulator.__exit__)
    return rows


async def _cloud(name: str, bare: Bare, rounds: int) -> list[Row]:
    await bare.open()
    provider = PROVIDERS[name](creates_per_s=None, concurrent=None)
    box = await bare.create()
    try:
        async with sk.Sandbox.create(provider) as sandbox:
            works: dict[str, tuple[Work, Work]] = {
                "exec true": (lambda: sandbox.exec(["true"]), lambda: bare.exec(box)),
                "write 100 bytes": (
                    lambda: sandbox.files.write("small", _CONTENT),
                    lambda: bare.write(box),
                ),
            }
            rows = [await _created(name, provider, bare, max(rounds // 2, 3))]
            for what, (ours, theirs) in works.items():
                both = {"ours": ours, "bare": theirs}
                taken = await interleaved(both, rounds=rounds, warm_up=1)
                rows.append(_row(f"{name}: {what}", taken))
            return rows
    finally:
        await bare.destroy(box)
        await bare.aclose()
        await provider.aclose()


async def _created(name: str, provider: SandboxProvider, bare: Bare, rounds: int) -> Row:
    """Creating; ours is ready for commands, with its guest. Destroying is not timed."""
    ours, theirs = list[float](), list[float]()
    for turn in range(1 + rounds):
        began = time.perf_counter()
        sandbox = await sk.Sandbox.create(provider)
        ours.append(time.perf_counter() - began)
        await sandbox.aclose()
        began = time.perf_counter()
        box = await bare.create()
        theirs.append(time.perf_counter() - began)
        await bare.destroy(box)
        if turn == 0:  # to warm up
            ours.clear()
            theirs.clear()
    taken = {"ours": Samples(tuple(ours)), "bare": Samples(tuple(theirs))}
    return _row(f"{name}: create", taken)


def _row(what: str, taken: Mapping[str, Samples]) -> Row:
    ms = {name: samples.median * 1000 for name, samples in taken.items()}
    return Row(what, ms["ours"], "ms", "bare SDK", ms["bare"], p95=taken["ours"].p95 * 1000)
