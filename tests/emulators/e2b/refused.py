"""What the emulated API says no with."""

from __future__ import annotations


class Refused(Exception):
    """The API says no.

    Attributes:
        status: HTTP's.
        error_code: The machine-readable word that goes with some.
    """

    def __init__(self, status: int, message: str, error_code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.error_code = status, error_code
