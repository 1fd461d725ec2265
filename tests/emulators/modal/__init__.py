"""An emulated Modal: its gRPC services, driven by the unmodified SDK."""

from __future__ import annotations

from tests.emulators.modal.emulator import ModalEmulator

__all__ = ["ModalEmulator"]
