"""The account: all services on one port, and what a test may do to them."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

from modal_proto.api_grpc import ModalClientBase
from modal_proto.task_command_router_grpc import TaskCommandRouterBase

from tests.agents.certificate import server_context
from tests.emulators.emulator import Emulator
from tests.emulators.modal.control import Apps, Control
from tests.emulators.modal.images import Images
from tests.emulators.modal.router import Router
from tests.emulators.modal.sandboxes import Result, Sandbox, Sandboxes
from tests.emulators.modal.tokens import Tokens
from tests.emulators.modal.uploads import Uploads
from tests.emulators.modal.wire import TrackedServer, Wire

_HOST = "127.0.0.1"


class ModalEmulator(Emulator):
    """An emulated Modal.

    Operations for faults and counts, besides those that all emulators share: `lookup` (an
    app), `login` (a token), `connect` (to a sandbox's router), `wait`, `poll`, `tags`,
    `image` (a look at one), `build_log`, `index` and `upload` (of files), `mount`, `entry`
    (the entry point's output), `output_stderr` and, for what is not emulated, the method's
    own name. The SDK repeats a call that was refused as UNAVAILABLE (or 503) up to 3 times,
    and at the router 10 times: a fault that is to be seen must strike more often. `cut`
    drops the whole connection, on which nothing but the router of one sandbox is asked.

    Args:
        host: The address of the Docker engine that has the machines.

    Attributes:
        tokens: The account's credentials.
        wire: Whether repeated requests are answered once (`wire.keeps_answers`).
        uploads: From which size on files are uploaded in parts (`uploads.large`).
        control: How many sandboxes a list answers at a time (`control.page`).
    """

    def __init__(self, host: str) -> None:
        super().__init__(host)
        self.tokens = Tokens()
        self.wire: Wire
        self.control: Control
        self._server: TrackedServer
        self.uploads: Uploads
        self._images: Images
        self._directory: Path
        self._certificate: Path
        self._sandboxes: Sandboxes

    async def serve(self) -> str:
        """Listen with all services on one port; blobs go to another, as at Modal."""
        self.wire = Wire(self.faults, self.tokens.check)
        spawn = self.wire.spawn
        apps = Apps(self.tokens)
        self.uploads = Uploads(self.machines)
        self._images = Images(self.machines, self.uploads, spawn)
        self._directory = Path(tempfile.mkdtemp(prefix="emulated-modal-"))
        context, self._certificate = await asyncio.to_thread(server_context, self._directory)
        self._sandboxes = Sandboxes(self.machines, self._images, spawn, context)
        self.control = control = Control(apps, self._sandboxes, self.tokens)
        router = Router(apps, self._images, self._sandboxes, spawn)
        methods = {
            **apps.methods(),
            **control.methods(),
            **self._images.methods(),
            **self.uploads.methods(),
        }
        self.wire.add(ModalClientBase, methods)
        self.wire.add(TaskCommandRouterBase, router.methods())
        self._server = TrackedServer(self.wire)
        await self.uploads.serve()
        await self._server.start(_HOST, 0)
        control.url = f"http://{_HOST}:{self._server.port}"
        return control.url

    async def shut(self) -> None:
        """End everything, whatever of it fails."""
        async with AsyncExitStack() as endings:  # from the last to the first
            endings.push_async_callback(asyncio.to_thread, shutil.rmtree, self._directory)
            endings.push_async_callback(self._images.aclose)
            endings.push_async_callback(self.uploads.aclose)
            endings.push_async_callback(self.wire.aclose)
            endings.push_async_callback(self._sandboxes.aclose)
            endings.push_async_callback(self._server.aclose)

    def environment(self) -> dict[str, str]:
        """The variables that the SDK reads."""
        return {
            "MODAL_SERVER_URL": self.url,
            "MODAL_TOKEN_ID": self.tokens.token_id,
            "MODAL_TOKEN_SECRET": self.tokens.token_secret,
            "SSL_CERT_FILE": str(self._certificate),  # that of the tunnels
        }

    def sandboxes(self) -> set[str]:
        """The ids of all sandboxes that run, or are being made."""
        return {sandbox.id for sandbox in self._sandboxes.running()}

    def sandbox(self, sandbox_id: str) -> Sandbox:
        """A sandbox as it was asked for, for tests to look at."""
        return self._sandboxes.all[sandbox_id]

    async def end(self, sandbox_id: str, *, expired: bool = True) -> None:
        """End a sandbox: its life-time is over, or somebody else has terminated it."""
        ended = Result.GENERIC_STATUS_TERMINATED
        status = Result.GENERIC_STATUS_TIMEOUT if expired else ended
        self._sandboxes.finish(self._sandboxes.get(sandbox_id), status)

    async def rest(self, sandbox_id: str, seconds: float) -> None:
        """See `Emulator.rest`; programs that run, and open tunnels, count."""
        await self._sandboxes.rest(self._sandboxes.get(sandbox_id), seconds)

    def drop_connections(self) -> None:
        """Cut all connections of all clients, from any thread."""
        self._loop.call_soon_threadsafe(self._server.drop_connections)
