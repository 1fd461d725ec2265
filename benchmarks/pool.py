"""From a claim to the first command, on a machine that was made ready before."""

from __future__ import annotations

import time

import sandboxkit as sk
from benchmarks.measure import Row, Samples

_TARGET_S = 0.020


async def measure(rounds: int) -> list[Row]:
    """Claim to first exec, alone and with what an owner gives, beside creating a sandbox."""
    claim: list[float] = []
    given: list[float] = []
    create: list[float] = []
    async with sk.Pool("docker", size=2) as pool:
        for turn in range(rounds + 1):
            await pool.filled()
            began = time.perf_counter()
            sandbox = await pool.claim()
            await sandbox.exec(["true"])
            first = time.perf_counter()
            await sandbox.aclose()
            await pool.filled()
            again = time.perf_counter()
            sandbox = await pool.claim(env={"OWNER": "1"}, files={"input.txt": "a file"})
            await sandbox.exec(["true"])
            second = time.perf_counter()
            await sandbox.aclose()
            await pool.filled()
            cold = time.perf_counter()
            async with sk.Sandbox.create("docker") as sandbox:
                await sandbox.exec(["true"])
                if turn:  # the first one warms up
                    claim.append(first - began)
                    given.append(second - again)
                    create.append(time.perf_counter() - cold)
    return [
        _row("claim to first exec, from a pool", claim, create, _TARGET_S),
        _row("the same with env and a file", given, create, None),
    ]


def _row(what: str, ours: list[float], theirs: list[float], target_s: float | None) -> Row:
    mine, reference = Samples(tuple(ours)), Samples(tuple(theirs))
    return Row(
        what,
        mine.median * 1e3,
        "ms",
        "create to first exec, cold",
        reference.median * 1e3,
        "" if target_s is None else f"at most {target_s * 1e3:g} ms",
        None if target_s is None else mine.median <= target_s,
        mine.p95 * 1e3,
    )
