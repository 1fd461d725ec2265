"""The emulated Daytona as a whole."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from typing import Self

from aiohttp import web

from tests.emulators.daytona.account import Account, Settings
from tests.emulators.daytona.box import GOING
from tests.emulators.daytona.builds import Builds
from tests.emulators.daytona.files import Files
from tests.emulators.daytona.gate import Gate
from tests.emulators.daytona.preview import Previews
from tests.emulators.daytona.processes import Processes
from tests.emulators.daytona.sandboxes import Sandboxes
from tests.emulators.daytona.snapshots import Snapshots
from tests.emulators.daytona.storage import Storage, plain_http
from tests.emulators.emulator import Emulator

_BODY = 1 << 30  # bytes: the largest request
_SHUT_S = 1.0


class DaytonaEmulator(Emulator):
    """An emulated Daytona, version 0 of its API, whose sandboxes are containers.

    Images have names of their own there: one that the engine has means that one, one with
    `no-such-image` in it does not exist, and every other means the default image.

    Attributes:
        settings: What a test may change.
        key: The account's API key.
    """

    def __init__(self, host: str) -> None:
        super().__init__(host)
        self.settings = Settings()
        self.key = f"dtn_{secrets.token_hex(24)}"
        self._account: Account
        self._runner: web.AppRunner
        self._storage: Storage
        self._previews: Previews
        self._sandboxes: Sandboxes
        self._patches = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._patches.enter_context(plain_http())
        try:
            return super().__enter__()
        except BaseException:
            self._patches.close()
            raise

    def __exit__(self, *exc: object) -> None:
        try:
            super().__exit__(*exc)
        finally:
            self._patches.close()

    async def serve(self) -> str:
        """Listen on a loopback port; see `Emulator.serve`."""
        account = self._account = Account(self.machines, self.faults, self.settings)
        self._storage = Storage()
        account.snapshots = Snapshots(account, Builds(self.machines, self._storage))
        self._sandboxes = Sandboxes(account)
        self._previews = Previews(account, self.key)
        gate = Gate(self.key, self.faults)
        app = web.Application(client_max_size=_BODY)
        routes = [
            *account.events.routes(gate),
            *self._sandboxes.routes(),
            *self._previews.routes(),
            *account.snapshots.routes(),
            *self._storage.routes(),
            *Processes(account).routes(),
            *Files(account).routes(),
        ]
        for route in routes:
            gate.add(app, route)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=_SHUT_S)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        account.url = self._storage.url = url
        account.spawn(self._sandboxes.run_clocks())
        return url

    async def shut(self) -> None:
        """Stop to listen, and remove all that was made; see `Emulator.shut`."""
        account = self._account
        await account.shut()
        await account.events.shut()
        await self._previews.aclose()
        boxes = list(account.boxes.values())
        await asyncio.gather(*(box.remove() for box in boxes), return_exceptions=True)
        try:
            await self._runner.cleanup()
        finally:
            await account.snapshots.aclose()
            self._storage.aclose()

    def environment(self) -> dict[str, str]:
        """See `Emulator.environment`. The target is given so that no `.env` is read."""
        return {
            "DAYTONA_API_URL": f"{self.url}/api",
            "DAYTONA_API_KEY": self.key,
            "DAYTONA_TARGET": "us",
        }

    def sandboxes(self) -> set[str]:
        """See `Emulator.sandboxes`; one that is being destroyed does not count."""
        boxes = list(self._account.boxes.values())
        return {box.id for box in boxes if box.state not in GOING}

    def snapshots(self) -> set[str]:
        """The names of the account's own snapshots."""
        return self._account.snapshots.names()

    async def end(self, sandbox_id: str) -> None:
        """See `Emulator.end`; returns when it is gone."""
        box = self._account.box(sandbox_id)
        await self._sandboxes.destroy(box)
        while box.id in self._account.boxes:
            await asyncio.sleep(0.02)

    async def rest(self, sandbox_id: str, seconds: float) -> None:
        """See `Emulator.rest`; an open stream counts."""
        await self._sandboxes.rest(self._account.box(sandbox_id), seconds)

    @property
    def minute_s(self) -> float:
        """How long a minute of the service is, in seconds; 60 unless changed."""
        return self.settings.minute_s

    @minute_s.setter
    def minute_s(self, seconds: float) -> None:
        self.settings.minute_s = seconds
