"""Live tests are asked for by name, have a budget, and are swept up; see `plugin.py`."""

from tests.live.plugin import (
    live,
    no_sandbox_is_left,
    pytest_collection_modifyitems,
    pytest_runtest_call,
    pytest_sessionfinish,
    pytest_terminal_summary,
)

__all__ = [
    "live",
    "no_sandbox_is_left",
    "pytest_collection_modifyitems",
    "pytest_runtest_call",
    "pytest_sessionfinish",
    "pytest_terminal_summary",
]
