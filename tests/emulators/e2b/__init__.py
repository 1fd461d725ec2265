"""An emulated E2B: its REST API, and the daemon in each sandbox, on one port."""

from tests.emulators.e2b.emulator import E2BEmulator

__all__ = ["E2BEmulator"]
