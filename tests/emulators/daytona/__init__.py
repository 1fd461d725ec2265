"""An emulated Daytona: its v0 API, toolbox, events, snapshots and previews."""

from __future__ import annotations

from tests.emulators.daytona.emulator import DaytonaEmulator

__all__ = ["DaytonaEmulator"]
