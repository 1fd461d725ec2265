"""Plugins by name: found by entry points, loaded one at a time, or registered at run time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

import anyio.to_thread

from sandboxkit.errors import (
    InvalidSpecError,
    ProviderConflictError,
    ProviderLoadError,
    ProviderNotFoundError,
    ProviderNotInstalledError,
)
from sandboxkit.providers.base import INTERFACE_VERSION, SandboxProvider

T = TypeVar("T")


class Registry(Generic[T]):
    """The plugins of one entry-point group.

    Args:
        group: The group, such as `sandboxkit.providers`.
        kind: What a plugin is called in messages.
        base: The class that each must derive from; checked on loading.
        interface_version: The version that each must have been written for.
    """

    def __init__(self, group: str, kind: str, base: type[T], interface_version: int) -> None:
        self._group = group
        self._kind = kind
        self._base = base
        self._version = interface_version
        self._registered: dict[str, Callable[[], T]] = {}
        self._loaded: dict[str, type[T]] = {}
        self._loading = threading.Lock()

    def register(self, name: str, factory: Callable[[], T]) -> None:
        """Make a plugin known for this process; it goes before installed ones.

        Args:
            name: The name to choose it by.
            factory: Called without arguments each time one is needed; a class will do.
        """
        if not name or not name.isprintable():
            raise InvalidSpecError(f"{name!r} cannot be the name of a {self._kind}")
        self._registered[name] = factory

    def names(self) -> list[str]:
        """All known names, sorted; nothing is loaded."""
        installed = {entry.name for entry in entry_points(group=self._group)}
        return sorted(installed | self._registered.keys())

    def make(self, name: str) -> T:
        """A new plugin object.

        Raises:
            ProviderNotFoundError: The name is not known; the message lists those that are.
            ProviderNotInstalledError: It is known, but its extra is missing; the
                message has the line that installs it.
            ProviderConflictError: Two packages claim the name; the message names both.
            ProviderLoadError: The plugin is broken, or written for another version.
        """
        factory = self._registered.get(name)
        if factory is not None:
            return factory()
        plugin = self.load(name)
        missing = getattr(plugin, "missing", None)
        if missing is not None and (said := missing()):
            raise ProviderNotInstalledError(f"the {self._kind} {name!r}: {said}")
        try:
            return plugin()
        except ModuleNotFoundError as error:
            raise self._missing(name, plugin, error) from error

    async def obtain(self, name: str) -> T:
        """`make`, with the first search for a name, and its import, in a thread.

        They look through all installed packages, which takes some 50 ms.
        """
        if name not in self._registered and name not in self._loaded:
            await anyio.to_thread.run_sync(self.load, name)
        return self.make(name)

    def load(self, name: str) -> type[T]:
        """The class of an installed plugin, from any thread; raises as `make` does."""
        with self._loading:
            if name not in self._loaded:
                self._loaded[name] = self._import(self._find(name))
            return self._loaded[name]

    def _find(self, name: str) -> EntryPoint:
        found = {entry.value: entry for entry in entry_points(group=self._group, name=name)}
        if not found:
            known = ", ".join(self.names()) or "none"
            raise ProviderNotFoundError(
                f"there is no {self._kind} named {name!r}; known here: {known}"
            )
        if len(found) > 1:
            packages = sorted(
                f"{entry.dist.name if entry.dist else '?'} ({value})"
                for value, entry in found.items()
            )
            raise ProviderConflictError(
                f"the {self._kind} {name!r} is claimed by {' and '.join(packages)}; "
                "uninstall one of them"
            )
        return next(iter(found.values()))

    def _import(self, entry: EntryPoint) -> type[T]:
        try:
            plugin = entry.load()
        except ModuleNotFoundError as error:
            # Its own module missing is a broken plugin; somebody else's, a missing extra.
            own = entry.module.partition(".")[0]
            if error.name and error.name.partition(".")[0] != own:
                raise self._missing(entry.name, None, error) from error
            raise self._broken(entry, error) from error
        except Exception as error:
            raise self._broken(entry, error) from error
        if not (isinstance(plugin, type) and issubclass(plugin, self._base)):
            raise ProviderLoadError(
                f"the {self._kind} {entry.name!r} ({entry.value}) is not a subclass of "
                f"{self._base.__module__}.{self._base.__name__}"
            )
        version = getattr(plugin, "interface_version", None)
        if version != self._version:
            raise ProviderLoadError(
                f"the {self._kind} {entry.name!r} ({entry.value}) is written for interface "
                f"version {version}, and this sandboxkit has version {self._version}; "
                "update the older of the two"
            )
        return plugin

    def _missing(
        self, name: str, plugin: type[T] | None, error: ModuleNotFoundError
    ) -> ProviderNotInstalledError:
        hint = getattr(plugin, "install_hint", "") or f'pip install "sandboxkit[{name}]"'
        return ProviderNotInstalledError(
            f"the {self._kind} {name!r} needs the package {error.name!r}, which is not "
            f"installed: {hint}"
        )

    def _broken(self, entry: EntryPoint, error: Exception) -> ProviderLoadError:
        return ProviderLoadError(
            f"the {self._kind} {entry.name!r} ({entry.value}) failed to import: {error!r}; "
            "the traceback above is its own"
        )


# mypy wants a concrete class here; the registry never instantiates the base.
providers: Registry[SandboxProvider] = Registry(
    "sandboxkit.providers",
    "provider",
    SandboxProvider,  # type: ignore[type-abstract]
    INTERFACE_VERSION,
)
"""The backends."""
