"""Ephemeral: a sandbox for one task. A repository whose tests fail goes in, a diff comes out.

    python ephemeral_bug_fix.py [REPOSITORY]

With ANTHROPIC_API_KEY in the environment it talks to Claude; without, to a scripted model, which
knows the repository that is written here.
"""

import asyncio
import sys
import tempfile
from pathlib import Path

import sandboxkit as sk
import scripted

REPOSITORY = {
    "prices.py": '''\
def total(prices, discount_percent=0):
    """The sum of the prices, less a discount."""
    return sum(prices) * (1 - discount_percent / 10)
''',
    "test_prices.py": """\
import unittest

from prices import total


class TotalTest(unittest.TestCase):
    def test_discount(self):
        self.assertEqual(total([40, 60], discount_percent=20), 80)
""",
}
ENV = {"PYTHONDONTWRITEBYTECODE": "1"}  # in the sandbox
TEST = ["python3", "-m", "unittest"]
COMMIT = """
git init -q && git add -A
git -c user.name=before -c user.email=before@localhost commit -q --allow-empty -m before
"""


async def fix(repository: Path) -> str:
    """The change after which the tests pass, as a diff; empty if they passed before."""
    async with sk.Session("docker", budget=sk.Budget(usd=2.0, wall_s=1200), env=ENV) as session:
        sandbox = session.sandbox
        print("sandbox", sandbox.id)
        await sandbox.files.upload(repository, sandbox.workdir)
        await sandbox.sh(COMMIT, check=True)
        before = await sandbox.exec(TEST, timeout_s=300)
        if before.exit_code == 0:
            return ""
        result = await session.run(
            f"The tests fail ({' '.join(TEST)}):\n{before.stderr.decode()}\n"
            "Find out why, and fix the code. Leave the tests as they are."
        )
        print(result.text)
        print(f"{result.turns} turns, ${result.cost_usd or 0:.4f}")
        # What the agent says is not what decides; and the tests are ours again.
        for test in tests_of(repository):
            await sandbox.files.upload(test, str(test.relative_to(repository)))
        await sandbox.exec(TEST, timeout_s=300, check=True)
        return (await sandbox.sh("git add -A && git diff --cached", check=True)).text


def tests_of(repository: Path) -> list[Path]:
    return sorted(repository.glob("**/test_*.py"))


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(sys.argv[1] if len(sys.argv) > 1 else folder)
        if len(sys.argv) == 1:
            for name, content in REPOSITORY.items():
                (repository / name).write_text(content)
        print(await fix(repository))


if __name__ == "__main__":
    asyncio.run(scripted.play(main, scripted.BUG_FIX))
