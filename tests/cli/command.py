"""The real command line, in a process of its own."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

SANDBOXKIT = [sys.executable, "-m", "sandboxkit"]
TIMEOUT_S = 90.0
_OF_THE_MACHINE = ("ANTHROPIC_", "CLAUDE_", "SANDBOXKIT_PROVIDER", "NO_COLOR", "FORCE_COLOR")


class Cli:
    """Runs the command as an owner of its own, so that others' sandboxes stay out of it.

    Attributes:
        owner: In whose name.
        cwd: Where it runs.
    """

    def __init__(self, cwd: Path) -> None:
        self.owner = f"cli-{secrets.token_hex(4)}"
        self.cwd = cwd

    def env(self, **variables: str) -> dict[str, str]:
        own = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(_OF_THE_MACHINE)
        }
        return {**own, "SANDBOXKIT_OWNER": self.owner, "COLUMNS": "100", **variables}

    def run(
        self, *arguments: str, stdin: bytes = b"", env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [*SANDBOXKIT, *arguments],
            input=stdin,
            capture_output=True,
            check=False,
            timeout=TIMEOUT_S,
            cwd=self.cwd,
            env=self.env(**(env or {})),
        )

    def start(
        self, *arguments: str, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*SANDBOXKIT, *arguments],
            cwd=self.cwd,
            env=self.env(**(env or {})),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run_on_terminal(
        self, *arguments: str, env: Mapping[str, str] | None = None
    ) -> tuple[int, bytes]:
        """The exit code, and all that the terminal got."""
        ours, theirs = os.openpty()
        process = subprocess.Popen(
            [*SANDBOXKIT, *arguments],
            cwd=self.cwd,
            env=self.env(TERM="xterm-256color", LINES="40", **(env or {})),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        got = bytearray()
        try:
            while chunk := os.read(ours, 65536):
                got += chunk
        except OSError:  # the other side is closed
            pass
        os.close(ours)
        return process.wait(TIMEOUT_S), bytes(got)

    def ids(self) -> list[str]:
        """The sandboxes of this owner."""
        return self.run("ls", "--quiet").stdout.decode().split()
