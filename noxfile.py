"""Everything that is checked, built or measured, each as a session: `nox -l` lists them."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import nox

nox.needs_version = ">=2025.5.1"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = ["lint", "types", "tests", "docs", "build"]
nox.options.error_on_missing_interpreters = True

PROJECT = nox.project.load_toml("pyproject.toml")
SOURCES = ("src", "tests", "examples", "benchmarks", "noxfile.py")
CLOUDS = ("e2b", "modal", "daytona")  # tests/live has a file for each
BACKENDS = ("docker", *CLOUDS)
QUICK = "not slow and not chaos and not live and not clouds"
AGAIN = ("--reruns", "1") if os.environ.get("SANDBOXKIT_TESTS_AGAIN") else ()
# Most tests wait for the engine most of the time. `-- -n 0` runs them in one process.
SHARED = ("--dist", "loadfile", "--no-loadscope-reorder", "-n", "4", *AGAIN)
MOST_LINES = {"src/sandboxkit/providers": 400, "src": 500}  # the first that fits counts

SMOKE = """
import sys, time
start = time.perf_counter()
import sandboxkit
print(f"sandboxkit imported in {(time.perf_counter() - start) * 1000:.0f} ms")
heavy = {"docker", "claude_agent_sdk", "mcp", "typer", "rich"} & sys.modules.keys()
assert not heavy, f"import sandboxkit imports {sorted(heavy)}"
for name in sandboxkit.__all__:
    try:
        getattr(sandboxkit, name)
    except ImportError as error:  # a name that needs an extra says which
        assert "pip install" in str(error), error
"""


def install(session: nox.Session, *groups: str, extras: str = "all") -> None:
    """Install the project, editable, with extras and dependency groups."""
    dependencies = nox.project.dependency_groups(PROJECT, *groups)
    session.install("-e", f".[{extras}]", *dependencies)


@nox.session
def lint(session: nox.Session) -> None:
    """Style, format, and the length of files."""
    session.install(*nox.project.dependency_groups(PROJECT, "lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    if too_long := files_too_long():
        session.error("Split these files by subject:\n  " + "\n  ".join(too_long))


@nox.session
def types(session: nox.Session) -> None:
    """Strict types, by two checkers."""
    install(session, "types", extras="all,jupyter")
    present = [source for source in SOURCES if Path(source).exists()]
    session.run("mypy", *present)
    session.run("pyright", *present)


@nox.session
def tests(session: nox.Session) -> None:
    """All quick tests, on a real Docker engine; one is brought up where none runs."""
    install(session, "test")
    session.run("pytest", "-m", QUICK, *SHARED, *session.posargs)


@nox.session
def slow(session: nox.Session) -> None:
    """The long proofs: hundreds of cancellations, large floods, cut connections."""
    install(session, "test")
    session.run(
        "pytest", "-m", "slow and not chaos and not live and not clouds", *SHARED, *session.posargs
    )


@nox.session
def clouds(session: nox.Session) -> None:
    """E2B, Modal and Daytona: their unmodified SDKs, over the wire, on emulated services."""
    install(session, "test")
    fewer = ("-n", "3")  # an emulated cloud computes more
    session.run(
        "pytest", "-m", "clouds and not chaos and not live", *SHARED, *fewer, *session.posargs
    )


@nox.session
def chaos(session: nox.Session) -> None:
    """Hundreds of sessions and of hosts killed at random moments, on every backend."""
    install(session, "test")
    session.run("pytest", "-m", "chaos and not live", *SHARED, "-rP", *session.posargs)


@nox.session
def store(session: nox.Session) -> None:
    """The store: on SQLite, on a PostgreSQL server (Debian's `postgresql`) and an S3 server."""
    install(session, "test")
    required = {"SANDBOXKIT_TESTS_POSTGRESQL": "1"}  # a server that is missing is no skip here
    session.run("pytest", "tests/store", *session.posargs, env=required)


@nox.session
def matrix(session: nox.Session) -> None:
    """`docs/conformance.md`, from a run of the conformance kit on every backend."""
    install(session, "test")
    runs = {name: Path(session.create_tmp()).resolve() / f"{name}.json" for name in BACKENDS}
    for name, run in runs.items():
        kit = f"tests/conformance/test_{name}.py"
        session.run("pytest", kit, env={"SANDBOXKIT_CONFORMANCE_JSON": str(run)})
    page = ("docs/conformance.md", *map(str, runs.values()))
    session.run("python", "-m", "tests.conformance.matrix", *page)


@nox.session
def live(session: nox.Session) -> None:
    """The conformance kit on real accounts: `-- e2b modal`, or all that have a key."""
    install(session, "test")
    named = [name for name in session.posargs if name in CLOUDS]
    options = [option for option in session.posargs if option not in CLOUDS]
    known = json.loads(session.run("sandboxkit", "providers", "--json", silent=True) or "")
    lacking = {each["name"]: lacks(each) for each in known["providers"]}
    for name in named or CLOUDS:
        if lacking[name]:
            session.warn(f"{name} is left out: {lacking[name]}")
    ready = [name for name in named or CLOUDS if not lacking[name]]
    if not ready:
        session.skip("no account can be used; what each needs is said above")
    files = [f"tests/live/test_{name}.py" for name in ready]
    session.run("pytest", "-m", "live", "--timeout", "300", *files, *options)


def lacks(backend: dict[str, Any]) -> str:
    """What a provider, as `sandboxkit providers --json` tells it, needs to be used."""
    credentials = backend["credentials"] or {"found": True}
    unknown = "" if credentials["found"] else credentials["said"]
    return str(backend["error"] or backend["missing"] or unknown)


@nox.session
def lowest(session: nox.Session) -> None:
    """The quick tests with the oldest releases that the project says it works with."""
    session.install("uv")
    session.run(
        *("uv", "pip", "install", "--python", session.virtualenv.location),
        *("--resolution", "lowest-direct", "-e", ".[all]"),
        *nox.project.dependency_groups(PROJECT, "test"),
        silent=True,
    )
    session.run("pytest", "-m", QUICK, *SHARED, *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation, where a broken link or page is an error."""
    session.install(*nox.project.dependency_groups(PROJECT, "docs"))
    target = session.create_tmp()
    session.run("mkdocs", "build", "--strict", "--site-dir", f"{target}/site")


@nox.session
def bench(session: nox.Session) -> None:
    """The benchmarks, as a table with ratios and as JSON. Never part of the tests."""
    install(session, "bench")
    session.run("python", "-m", "benchmarks", *session.posargs)


@nox.session
def build(session: nox.Session) -> None:
    """The wheel and the source distribution; the wheel, alone, must import."""
    session.install(*nox.project.dependency_groups(PROJECT, "build"))
    target = Path(session.create_tmp()).resolve()
    shutil.rmtree(target / "dist", ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", str(target / "dist"))
    (wheel,) = (target / "dist").glob("*.whl")
    environment = target / "environment"
    session.run("python", "-m", "venv", "--clear", str(environment))
    python = environment / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    session.run(str(python), "-m", "pip", "install", "-q", str(wheel), external=True)
    with session.chdir(target):  # away from the sources
        session.run(str(python), "-c", SMOKE, external=True)


def files_too_long() -> list[str]:
    """The source files that are longer than a file with one subject should be."""
    return [
        f"{path}: {lines} lines, at most {most}"
        for path in sorted(Path("src").rglob("*.py"))
        for lines in (len(path.read_text(encoding="utf-8").splitlines()),)
        for most in (next(n for d, n in MOST_LINES.items() if path.is_relative_to(d)),)
        if lines > most
    ]
