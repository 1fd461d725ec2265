"""What the emulated E2B has of its one customer: limits, sandboxes, templates."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

from tests.emulators.e2b.catalog import Catalog
from tests.emulators.e2b.network import is_open
from tests.emulators.e2b.refused import Refused
from tests.emulators.e2b.sandbox import CREATE_S, Sandbox, Transition
from tests.emulators.e2b.template import DEFAULT_TAG, Template, new_id, parse
from tests.emulators.machines import Machines

Json = dict[str, Any]


class Account:
    """One customer's.

    Attributes:
        max_hours: A sandbox's longest life: that of the plan Pro.
        max_sandboxes: At once: likewise.
        sandboxes: By id; those that are being created or ended, too.
    """

    def __init__(self, machines: Machines) -> None:
        self.machines = machines
        self.max_hours, self.max_sandboxes = 24, 100
        self.sandboxes: dict[str, Sandbox] = {}
        self.catalog = Catalog(machines)
        self._tasks: set[asyncio.Task[None]] = set()

    async def aclose(self) -> None:
        """Remove all that there is on the engine."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(self.kill(sandbox_id) for sandbox_id in list(self.sandboxes)))
        await self.catalog.aclose()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Have something done that nobody waits for."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def create(self, body: Json) -> Sandbox:
        """Make a sandbox.

        Raises:
            Refused: There is no such template, or no room.
        """
        template, build = await self.catalog.find(str(body["templateID"]))
        if len(self.sandboxes) >= self.max_sandboxes:
            raise Refused(
                429,
                "you have reached the maximum number of concurrent E2B sandboxes "
                f"({self.max_sandboxes}). If you need more, please contact us",
            )
        sandbox = Sandbox(template, build, body)
        self.sandboxes[sandbox.id] = sandbox
        try:
            sandbox.begin(
                await self.machines.create(
                    image=build.image,
                    cpus=min(build.cpus, os.cpu_count() or 1),
                    memory_mib=build.memory_mib,
                    network=is_open(body),
                )
            )
        except BaseException:
            self.sandboxes.pop(sandbox.id, None)
            raise
        self.set_timeout(sandbox, body.get("timeout", CREATE_S))
        return sandbox

    def find(self, sandbox_id: str) -> Sandbox:
        """A sandbox that the customer can see.

        Raises:
            Refused: There is none.
        """
        sandbox = self.sandboxes.get(sandbox_id)
        if sandbox is None or not sandbox.visible:
            raise Refused(404, f"Sandbox '{sandbox_id}' not found")
        return sandbox

    def set_timeout(self, sandbox: Sandbox, seconds: float) -> None:
        """Have a sandbox expire so many seconds from now; the plan's limit counts first."""
        sandbox.live(min(seconds, self.max_hours * 3600), self._expire)

    def _expire(self, sandbox: Sandbox) -> None:
        self.spawn(self._expired(sandbox))

    async def _expired(self, sandbox: Sandbox) -> None:
        if not sandbox.body.get("autoPause"):
            await self.kill(sandbox.id)
            return
        try:
            await sandbox.pause()
        except Transition:
            return  # somebody was faster

    async def kill(self, sandbox_id: str) -> bool:
        """End a sandbox; whether there was one."""
        sandbox = self.sandboxes.get(sandbox_id)
        if sandbox is None or not sandbox.visible:
            return False
        try:
            await sandbox.end()
        finally:
            self.sandboxes.pop(sandbox_id, None)
        return True

    async def snapshot(self, sandbox: Sandbox, name: str | None) -> tuple[Template, str]:
        """Keep a sandbox as a template; and the tag that it has there.

        Raises:
            Transition: The sandbox does not run.
        """
        bare, tag = parse(name) if name else ("", DEFAULT_TAG)
        image = await sandbox.freeze()
        template = self.catalog.named(bare)
        template.sandbox_id = sandbox.id
        build = replace(sandbox.build, id=new_id(), image=image, log=[])
        template.builds[build.id], template.tags[tag] = build, build.id
        return template, tag
