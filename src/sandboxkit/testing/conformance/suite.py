"""The whole kit: every promise, and the fixtures that they use."""

from __future__ import annotations

from sandboxkit.testing.conformance import fixtures
from sandboxkit.testing.conformance.differences import cannot, not_yet
from sandboxkit.testing.conformance.promise import PROMISES
from sandboxkit.testing.conformance.promises import (
    capabilities,
    connection,
    detached,
    endings,
    files,
    leases,
    lifecycle,
    output,
    paths,
    ports,
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
    connection,
)
"""The files of the kit, in the order in which they are best read."""

conformance_kit = True
"""Tells the plugin that a test file runs the whole kit."""

pytest_plugins = ("sandboxkit.testing.conformance.plugin",)
"""Registered by pytest when it finds this name in a test file."""

globals().update(PROMISES)
globals().update({name: getattr(fixtures, name) for name in fixtures.__all__})

__all__ = [  # noqa: PLE0604  # pyright: ignore[reportUnsupportedDunderAll]
    "cannot",
    "conformance_kit",
    "not_yet",
    "pytest_plugins",
    *fixtures.__all__,
    *PROMISES,
]
