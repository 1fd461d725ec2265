"""The demo's task, and what the scripted model does with it where there is no account.

The model's words are scripted; all else is real: Claude Code takes them for a model's,
calls its real tools in the sandbox, and sends back what came of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sandboxkit.testing import Reply, call, say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandboxkit.testing import ModelRequest
    from sandboxkit.testing.scripted_model.model import Reaction
    from sandboxkit.testing.scripted_model.steps import Block, Step

REPORT: Final = "report.md"

PROMPT: Final = (
    "A test in this directory fails. Find out why, fix the code, run the tests again "
    f"(python3 -m unittest), and write what you found and did to {REPORT}."
)

FILES: Final = {
    "prices.py": '''\
def total(prices, discount_percent=0):
    """The sum of the prices, less a discount."""
    return sum(prices) * (1 - discount_percent / 10)
''',
    "test_prices.py": """\
import unittest

from prices import total


class TotalTest(unittest.TestCase):
    def test_sum(self):
        self.assertEqual(total([40, 60]), 100)

    def test_discount(self):
        self.assertEqual(total([40, 60], discount_percent=20), 80)
""",
}

_RUN_TESTS: Final = call("Bash", command="python3 -m unittest", description="Run the tests")
_BROKEN: Final = "(1 - discount_percent / 10)"
_FIXED: Final = "(1 - discount_percent / 100)"


def script(workdir: str) -> Sequence[Step | Reaction]:
    """The model's answers, one for each time that it is asked.

    Args:
        workdir: Where the files are in the sandbox.
    """
    code = f"{workdir}/prices.py"
    return [
        _typed(say("I will run the tests first."), _RUN_TESTS),
        _typed(
            say("A discount of 20 % makes the price negative. Let me see how it is computed."),
            call("Read", file_path=code),
        ),
        _typed(
            say("The discount is divided by 10 instead of 100."),
            call("Edit", file_path=code, old_string=_BROKEN, new_string=_FIXED),
        ),
        _typed(say("Now the tests again."), _RUN_TESTS),
        lambda request: _report(request, workdir),
        _typed(
            say(
                "The test failed because `total` divided the discount by 10 instead of 100. "
                f"I fixed that in prices.py, the tests pass, and {REPORT} says what I did."
            )
        ),
    ]


def _report(request: ModelRequest, workdir: str) -> Reply:
    """The report, with what the tests have really said."""
    said = request.tool_results[-1].text.strip()
    content = f"""\
# Why the test failed

`total` in prices.py divided `discount_percent` by 10, so 20 % off took the price
twice over. It now divides by 100:

    - return sum(prices) * {_BROKEN}
    + return sum(prices) * {_FIXED}

# What the tests say now

    {said.replace(chr(10), chr(10) + "    ")}
"""
    write = call("Write", file_path=f"{workdir}/{REPORT}", content=content)
    return _typed(say("I write down what I found."), write)


def _typed(*blocks: Block) -> Reply:
    """An answer that comes word by word, at about the pace of a model."""
    return Reply(blocks, pause_s=0.01)
