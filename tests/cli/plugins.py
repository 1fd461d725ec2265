"""Providers of third parties, installed for one process as pip would lay them out."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path


class Plugins:
    """A directory of installed distributions.

    Attributes:
        environment: What lets another process see them.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        path = [str(directory), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.environment = {"PYTHONPATH": os.pathsep.join(path)}

    def install(self, name: str, source: str, *, distribution: str = "") -> None:
        """Install one provider: its class is called `Provider`."""
        distribution = distribution or f"plugin-{name}"
        module = distribution.replace("-", "_")
        metadata = self._directory / f"{module}-1.0.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n"
        )
        (metadata / "entry_points.txt").write_text(
            f"[sandboxkit.providers]\n{name} = {module}:Provider\n"
        )
        (self._directory / f"{module}.py").write_text(textwrap.dedent(source))
