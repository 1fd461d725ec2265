"""The README and the examples: what they show runs, word for word."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
MARGIN = re.compile(r"^ +", re.MULTILINE)
SAYS = {
    "quickstart": ["The haiku is in haiku.txt. 2 ", "calls Bash {'command': 'wc -w haiku.txt'}"],
    "sandbox": ["0 Hello from /work", "b'STREAMS, SIGNALS, EXIT CODES\\n' 0", "200 OK"],
    "any_backend": ["4 words, the longest is everywhere", "True before", "BOTH DIRECTIONS"],
    "claude_sdk_client": ["mcp__shop__price", "A lamp costs 12.50 euros.", "\nlamp: 12.50\n"],
}


def source(example: str) -> str:
    return (ROOT / "examples" / f"{example}.py").read_text(encoding="utf-8")


def test_the_readme_shows_the_examples() -> None:
    blocks: list[str] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    sources = "".join(source(example) for example in SAYS)
    assert len(blocks) == len(SAYS)
    assert [block for block in blocks if block not in sources] == []


def test_the_readme_shows_lines_of_the_patterns() -> None:
    rows: list[tuple[str, str]] = re.findall(r"`(sk\.Session[^`]*)` \|.*?\((\S+\.py)\)", README)
    assert len(rows) == 4
    assert [line for line, file in rows if line not in (ROOT / file).read_text()] == []


def test_the_page_of_the_patterns_shows_their_lines() -> None:
    page = (ROOT / "docs" / "patterns.md").read_text(encoding="utf-8")
    blocks: list[str] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    files: list[str] = re.findall(r"`examples/(\w+)\.py", page)
    whole = [MARGIN.sub("", source(file)) for file in files]
    assert len(blocks) >= 7
    missing = [each for each in blocks if not any(MARGIN.sub("", each) in one for one in whole)]
    assert missing == []


def test_the_readme_gives_the_commands_that_ci_runs() -> None:
    commands: list[str] = re.findall(r"```console\n(.*?)\n```", README, re.DOTALL)
    assert len(commands) == 2
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert [command for command in commands if command not in script] == []


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("example", SAYS)
def test_an_example_runs_without_an_account(example: str, tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("ANTHROPIC")}
    done = subprocess.run(
        [sys.executable, "-W", "error", ROOT / "examples" / f"{example}.py", "docker"],
        capture_output=True,
        check=False,
        cwd=tmp_path,
        env=env,
        text=True,
        timeout=90,
    )
    assert (done.returncode, done.stderr) == (0, "")
    for words in SAYS[example]:
        assert words in done.stdout
    if example == "quickstart":
        assert (tmp_path / "haiku.txt").read_text().startswith("No door")
