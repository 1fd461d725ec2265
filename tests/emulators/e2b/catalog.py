"""The templates and snapshots of the customer, and the images behind them."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import docker.errors

from tests.emulators.e2b.refused import Refused
from tests.emulators.e2b.template import (
    DEFAULT_CPUS,
    DEFAULT_MEMORY_MIB,
    DEFAULT_TAG,
    Build,
    Template,
    new_id,
    parse,
    provisioned,
)
from tests.emulators.machines import Machines

BASE: Final = "base"  # the template that every customer has

Json = dict[str, Any]


class Catalog:
    """All templates, by id."""

    def __init__(self, machines: Machines) -> None:
        self._machines = machines
        base = Build(new_id(), DEFAULT_CPUS, DEFAULT_MEMORY_MIB)
        self._base = Template(BASE, [BASE], {base.id: base}, {DEFAULT_TAG: base.id})
        self.templates: dict[str, Template] = {BASE: self._base}
        self._preparing = asyncio.Lock()
        self._unwanted: set[str] = set()  # images that something still needs

    async def aclose(self) -> None:
        """Remove all images; nothing runs from them any more."""
        for template in list(self.templates.values()):
            await self.remove(template)
        before = -1
        while before != len(self._unwanted):  # a child goes before its parent
            before = len(self._unwanted)
            await self._sweep()

    async def find(self, reference: str) -> tuple[Template, Build]:
        """A template that can be used, and its build.

        Raises:
            Refused: There is none, or it is not built.
        """
        template, tag = self.find_template(reference)
        if template is self._base:
            await self._prepare_base()
        build = template.ready(tag)
        if build is None:
            raise Refused(404, f"tag '{tag}' does not exist for template '{reference}'")
        return template, build

    def find_template(self, reference: str) -> tuple[Template, str]:
        """A template by its id or one of its names, and the tag that was asked for.

        Raises:
            Refused: There is none.
        """
        name, tag = parse(reference)
        for template in self.templates.values():
            if name == template.id or name in template.names:
                return template, tag
        raise Refused(404, f"template '{reference}' not found")

    def named(self, name: str) -> Template:
        """The template of a name; a new one if there is none yet, or no name."""
        for template in self.templates.values():
            if name and name in template.names:
                return template
        template = Template(new_id(), [name] if name else [])
        self.templates[template.id] = template
        return template

    async def remove(self, template: Template) -> None:
        """Remove a template, with all its builds; what runs from it goes on."""
        self.templates.pop(template.id, None)
        self._unwanted |= {build.image for build in template.builds.values() if build.image}
        await self._sweep()

    async def _sweep(self) -> None:
        for image in list(self._unwanted):
            try:
                await self._machines.remove_image(image)
            except docker.errors.APIError:
                continue  # a sandbox or another image is made from it
            self._unwanted.discard(image)

    async def _prepare_base(self) -> None:
        (build,) = self._base.builds.values()
        async with self._preparing:
            if build.status != "ready":
                build.image = await provisioned(self._machines, None)
                build.status = "ready"
