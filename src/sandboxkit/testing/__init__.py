"""What sandboxkit gives to the tests of others, each part loaded when its name is first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sandboxkit.testing.memory import Answer, Call, MemoryFiles, MemoryProvider
    from sandboxkit.testing.scripted_model import (
        END_OF_SCRIPT,
        HangUp,
        ModelRequest,
        Reply,
        ScriptedModel,
        ToolResult,
        call,
        claude_code_side_request,
        fail,
        say,
        think,
    )

__all__ = [
    "END_OF_SCRIPT",
    "Answer",
    "Call",
    "HangUp",
    "MemoryFiles",
    "MemoryProvider",
    "ModelRequest",
    "Reply",
    "ScriptedModel",
    "ToolResult",
    "call",
    "claude_code_side_request",
    "fail",
    "say",
    "think",
]

_MODULES = dict.fromkeys(__all__, "sandboxkit.testing.scripted_model") | dict.fromkeys(
    ("Answer", "Call", "MemoryFiles", "MemoryProvider"), "sandboxkit.testing.memory"
)
"""Where each public name lives."""


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
