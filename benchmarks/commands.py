"""Commands and small files."""

from __future__ import annotations

import sandboxkit as sk
from benchmarks.measure import Row, interleaved
from benchmarks.reference import DockerPy, docker_cli, local

SMALL = b"x" * 100


async def measure(rounds: int) -> list[Row]:
    """`exec(["true"])`, and a 100-byte file written and read."""
    async with sk.Sandbox.create("docker") as sandbox:
        docker_py = DockerPy(sandbox.id)
        try:
            fast = await interleaved(
                {
                    "ours": lambda: sandbox.exec(["true"]),
                    "local": lambda: local("true"),
                    "write": lambda: sandbox.files.write("small", SMALL),
                    "read": lambda: sandbox.files.read("small"),
                },
                rounds=rounds,
                warm_up=rounds // 5,
            )
            slow = await interleaved(
                {
                    "docker-py": lambda: docker_py.exec("true"),
                    "docker exec": lambda: docker_cli("exec", sandbox.id, "true"),
                },
                rounds=max(5, rounds // 10),
                warm_up=2,
            )
        finally:
            docker_py.close()
    ours = fast["ours"].median
    rows = [
        Row(
            f"exec true, beside {beside}",
            ours * 1e3,
            "ms",
            beside,
            reference.median * 1e3,
            target,
            met,
            fast["ours"].p95 * 1e3,
        )
        for beside, reference, target, met in (
            ("a local subprocess", fast["local"], "under 2x", ours < 2 * fast["local"].median),
            (
                "docker-py exec",
                slow["docker-py"],
                "under 1/20",
                ours < slow["docker-py"].median / 20,
            ),
            ("docker exec", slow["docker exec"], "", None),
        )
    ]
    return rows + [
        Row(
            f"{name} of a 100-byte file",
            fast[name].median * 1e3,
            "ms",
            target="at most 1.5 ms",
            met=fast[name].median <= 1.5e-3,
            p95=fast[name].p95 * 1e3,
        )
        for name in ("write", "read")
    ]
