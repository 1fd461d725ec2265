"""The example of a third-party backend, as its users have it: two wheels, and a name."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLUGIN = ROOT / "examples" / "sandboxkit-bubblewrap"

pytestmark = pytest.mark.timeout(600)  # the packages may have to be fetched

BY_NAME = """
import asyncio
from sandboxkit import Sandbox

async def main():
    async with Sandbox.create("bubblewrap", env={"WHO": "world"}) as sandbox:
        print(sandbox.info.provider, (await sandbox.sh('echo "hello $WHO"')).text)

asyncio.run(main())
"""

SESSION = """
import asyncio
from sandboxkit import Session
from sandboxkit.agents.claude_code import ClaudeCode
from sandboxkit.testing import ScriptedModel, call, say

async def main():
    model = ScriptedModel([call("Bash", command="id -u > who; cat who"), say("I am user 1000.")])
    async with model, Session("bubblewrap", agent=ClaudeCode(model_url=model.url)) as session:
        result = await session.run("Who are you?")
        print(result.text, result.turns, await session.sandbox.files.read_text("who"))

asyncio.run(main())
"""


def quotations() -> list[tuple[str, str]]:
    """The blocks of code in the documentation, each with the name of the file it is from."""
    page = (ROOT / "docs" / "write-a-provider.md").read_text(encoding="utf-8")
    return re.findall(r'^```\w+ title="([^"]+)"\n(.*?)^```$', page, re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Environment:
    """A virtual environment that has nothing of this checkout but its wheels."""

    path: Path

    def run(self, *arguments: str) -> str:
        """Run its Python, away from the sources; what it wrote to stdout."""
        env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        done = subprocess.run(
            [self.path / "bin" / "python", *arguments],
            cwd=self.path,
            env={**env, "XDG_STATE_HOME": str(self.path / "state")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @property
    def left(self) -> list[Path]:
        """Sandboxes that were not removed."""
        return list((self.path / "state").glob("sandboxkit-bubblewrap/*"))


def wheel(project: Path, directory: Path) -> str:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(directory)]
    done = subprocess.run(build, cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    name = re.sub(r"\W", "_", project.name) if project == PLUGIN else "sandboxkit"
    (built,) = directory.glob(f"{name}-*.whl")
    return str(built)


@pytest.fixture(scope="module")
def environment(bubblewrap: None, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    path = tmp_path_factory.mktemp("environment")
    venv.create(path, with_pip=True)
    made = Environment(path)
    wheels = [f"{wheel(ROOT, path)}[claude]", f"{wheel(PLUGIN, path)}[test]"]
    made.run("-m", "pip", "install", "-q", "--disable-pip-version-check", *wheels)
    return made


@pytest.mark.parametrize(("name", "code"), quotations())
def test_the_documentation_quotes_it(name: str, code: str) -> None:
    (file,) = PLUGIN.rglob(name)
    # The formatter indents and wraps a block on a page in its own way.
    quoted, real = ("".join(text.split()) for text in (code, file.read_text(encoding="utf-8")))
    assert quoted in real


def test_there_are_quotations() -> None:
    assert len(quotations()) >= 10


def test_it_is_found_by_its_name(environment: Environment) -> None:
    assert environment.run("-c", BY_NAME) == "bubblewrap hello world\n\n"
    assert environment.left == []


def test_the_real_agent_runs_in_it(environment: Environment) -> None:
    assert environment.run("-c", SESSION).split() == ["I", "am", "user", "1000.", "2", "1000"]
    assert environment.left == []


@pytest.mark.slow
def test_it_keeps_every_promise_of_the_conformance_kit(environment: Environment) -> None:
    said = environment.run("-m", "pytest", "-q", "-c", f"{PLUGIN}/pyproject.toml", str(PLUGIN))
    passed = re.search(r"(\d+) passed", said)
    assert passed
    assert int(passed[1]) > 100
    assert "failed" not in said
    assert environment.left == []
