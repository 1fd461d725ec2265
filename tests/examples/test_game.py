"""Single container: two agents in one sandbox play until one has won."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.examples.program import Example

pytestmark = [pytest.mark.usefixtures("engine"), pytest.mark.timeout(300)]

SAYS = """\
guesser: I guess 50.
keeper:  It is higher.
guesser: I guess 75.
keeper:  It is lower.
guesser: I guess 62.
keeper:  It is right.
The winner is the guesser
"""


async def test_two_agents_play_and_cannot_cheat(tmp_path: Path) -> None:
    example = Example("single_container_game", tmp_path)
    *game, peek, keeper, guesser = await example.run()
    assert game == SAYS.splitlines()
    assert peek.endswith("/secret.txt: Permission denied")
    # Each had an account of its own; a request may have been sent again.
    for line, name, at_least in ((keeper, "keeper", 11), (guesser, "guesser", 9)):
        said = re.fullmatch(rf"{name} asked the model (\d+) times", line)
        assert said is not None
        assert at_least <= int(said[1]) < 20
    assert await example.alive() == set()
