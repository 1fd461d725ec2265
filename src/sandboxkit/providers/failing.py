"""What the error maps of all providers share: nothing of a vendor's library gets out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator

from sandboxkit.errors import SandboxError


@contextlib.contextmanager
def errors_as(translate: Callable[[Exception], SandboxError]) -> Generator[None]:
    """Turn whatever fails in the block into a `SandboxError`, with its cause kept.

    Args:
        translate: The error of ours for one that is not; a `SandboxError` passes as it is.
    """
    try:
        yield
    except SandboxError:
        raise
    except Exception as error:
        raise translate(error) from error
