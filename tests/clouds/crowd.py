"""Twenty sandboxes at once, in a process of their own: what held the loop up, as JSON.

python -m tests.clouds.crowd e2b
"""

from __future__ import annotations

import asyncio
import json
import sys

from sandboxkit import Sandbox
from tests.blocking import watch
from tests.busy import steps_longer_than

MANY = 20
LONGEST_S = 0.02


async def crowd(provider: str) -> dict[str, list[str]]:
    """What each sandbox said, each step of the loop that was long, and each blocking call."""
    everybody_is_there = asyncio.Barrier(MANY)

    async def one(number: int) -> str:
        async with Sandbox.create(provider) as sandbox:
            await everybody_is_there.wait()
            await sandbox.files.write("number", str(number))
            said = (await sandbox.sh("cat number; sleep 1", check=True)).text
            await everybody_is_there.wait()
        return said

    watch.all_on = asyncio.get_running_loop()
    with steps_longer_than(LONGEST_S) as long:
        said = await asyncio.gather(*(one(number) for number in range(MANY)))
    return {"said": said, "long": [repr(step) for step in long], "blocking": watch.found}


if __name__ == "__main__":
    watch.install()
    json.dump(asyncio.run(crowd(sys.argv[1])), sys.stdout)
