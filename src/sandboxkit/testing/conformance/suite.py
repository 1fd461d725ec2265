"""The whole kit: every promise, and the fixtures that they use."""

from __future__ import annotations

from types import ModuleType

from sandboxkit.testing.conformance import fixtures
from sandboxkit.testing.conformance.differences import cannot, not_yet
from sandboxkit.testing.conformance.promise import PROMISES
from sandboxkit.testing.conformance.promises import (
    capabilities,
    connection,
    detached,
    endings,
    exposed,
    files,
    leases,
    lifecycle,
    output,
    paths,
    pauses,
    ports,
    snapshots,
    spawned,
    starting,
    terminals,
    trees,
    verbs,
)

SUBJECTS = (
    verbs,
    lifecycle,
    leases,
    capabilities,
    starting,
    output,
    endings,
    spawned,
    terminals,
    detached,
    files,
    paths,
    trees,
    ports,
    exposed,
    pauses,
    snapshots,
    connection,
)
"""The files of the kit, in the order in which they are best read."""

conformance_kit = True
"""Tells the plugin that a test file runs the whole kit."""

pytest_plugins = ("sandboxkit.testing.conformance.plugin",)
"""Registered by pytest when it finds this name in a test file."""

_FIXTURES: dict[str, object] = {name: getattr(fixtures, name) for name in fixtures.__all__}


def part(*subjects: ModuleType) -> dict[str, object]:
    """Some files of the kit, and the fixtures, for `globals().update(part(output, ports))`.

    For a provider that is tested whole elsewhere, and here again in another way.
    """
    names = {subject.__name__ for subject in subjects}
    chosen = {name: test for name, test in PROMISES.items() if test.__module__ in names}
    return {**_FIXTURES, **chosen, "pytest_plugins": pytest_plugins}


globals().update(PROMISES)
globals().update(_FIXTURES)

__all__ = [  # noqa: PLE0604  # pyright: ignore[reportUnsupportedDunderAll]
    "cannot",
    "conformance_kit",
    "not_yet",
    "part",
    "pytest_plugins",
    *fixtures.__all__,
    *PROMISES,
]
