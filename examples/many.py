"""Many at once: programs that nobody has read, each in a machine of its own that was ready.

With a prompt instead of a function, and an agent, it is the same: `sk.map("Fix {input}", ...)`.
"""

import asyncio
import tempfile
from pathlib import Path

import sandboxkit as sk

PROGRAMS = {
    "primes": "print([n for n in range(2, 30) if all(n % d for d in range(2, n))])",
    "curious": "import os; print(sorted(os.listdir('.')), os.environ['JOB'])",
    "greedy": "while True: pass",
    "broken": "print(1 / 0)",
}


async def check(sandbox: sk.Sandbox, name: str) -> dict[str, str | int]:
    await sandbox.files.write("program.py", PROGRAMS[name])
    done = await sandbox.exec(["python3", "program.py"], timeout_s=3)
    if done.timed_out:
        return {"said": "took too long", "code": -1}
    said = done.text or done.stderr.decode().splitlines()[-1]
    return {"said": said.strip(), "code": done.exit_code}


async def main(journal: Path) -> None:
    async with sk.Pool("docker", size=2, cpu=0.5, memory_gib=0.25) as pool:
        for time in ("first", "second"):  # what is in the journal is not done again
            async with sk.map(
                check, PROGRAMS, provider=pool, env={"JOB": "nightly"}, journal=journal
            ) as outcomes:
                async for outcome in outcomes:
                    print(outcome.input, "->", outcome.result()["said"])
                print(outcomes.progress.resumed, "resumed in the", time, "run")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(Path(folder) / "journal.jsonl"))
