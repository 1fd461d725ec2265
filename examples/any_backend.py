"""The same program on every backend: `python any_backend.py docker` (or e2b, modal, daytona)."""

import asyncio
import sys

import sandboxkit as sk

PROGRAM = """
import sys
words = sys.stdin.read().split()
print(len(words), "words, the longest is", max(words, key=len))
print("a word on stderr", file=sys.stderr)
sys.exit(3)
"""


async def main(backend: str) -> None:
    async with sk.Sandbox.create(backend) as sandbox:
        await sandbox.files.write("count.py", PROGRAM)
        done = await sandbox.exec(
            ["python3", "count.py"], stdin=b"the same semantics everywhere", timeout_s=20
        )
        print(done.exit_code, done.text, done.stderr.decode(), sep="\n", end="")

        ended = await sandbox.sh("echo before; sleep 60; echo after", timeout_s=1)
        print(ended.timed_out, ended.text, end="")

        async with await sandbox.spawn(["tr", "a-z", "A-Z"], stdin=sk.PIPE) as process:
            await process.stdin.write(b"streams in both directions\n")
            await process.stdin.close()
            print((await process.stdout.read()).decode(), await process.wait())


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
