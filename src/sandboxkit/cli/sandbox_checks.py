"""What `sandboxkit doctor` finds out about a backend: its package, its key, a whole sandbox."""

from __future__ import annotations

import contextlib
import secrets
import statistics
import time
from collections.abc import AsyncIterator, Generator, Sequence
from typing import TYPE_CHECKING, Final

import anyio

from sandboxkit.cli.checks import Check, failed
from sandboxkit.cli.providers import in_words, look_at
from sandboxkit.cli.work import described
from sandboxkit.errors import SandboxError
from sandboxkit.providers.registry import providers
from sandboxkit.sandbox import Sandbox
from sandboxkit.spec import KEY_LABEL, SandboxSpec

if TYPE_CHECKING:
    from sandboxkit.providers.base import SandboxProvider
    from sandboxkit.spec import Artifact

_EXECS: Final = 20
_FILE_BYTES: Final = 1_000_000
_LOOK_AGAIN_S: Final = (0.0, 1.0, 3.0)  # a service's list may be a moment behind
_CLI_S: Final = 60.0
_DIFFERS: Final = "what came back is not what was sent"


async def check_account(provider: str) -> AsyncIterator[Check]:
    """What is known before anyone is asked: the package, and something to sign in with.

    Raises:
        ProviderNotFoundError: There is no such backend.
    """
    backend = look_at(provider)
    if backend.error is not None:
        yield Check("fail", "Provider", backend.error)
        return
    if backend.missing is not None:
        yield Check("fail", "Provider", backend.missing)
        return
    if backend.capabilities is not None:
        yield Check("ok", "Provider", in_words(backend.capabilities))
    if (known := backend.credentials) is not None:
        yield Check("ok" if known.found else "fail", "Credentials", known.said)


async def check_a_sandbox(provider: str, artifacts: Sequence[Artifact]) -> AsyncIterator[Check]:
    """A whole life: created, used and destroyed, with the time that each step took.

    Cancelling destroys it. Nothing is left behind.
    """
    spec = SandboxSpec.build(artifacts=artifacts)
    watch = _Watch()
    try:
        backend = providers.make(provider)
        try:
            with watch.step("Prepare"):
                await backend.prepare(spec)  # an image may be built; not part of the times
            async for check in _life(backend, spec, watch):
                yield check
        finally:
            await backend.aclose()
    except SandboxError as error:
        yield failed(watch.name, error)


async def _life(backend: SandboxProvider, spec: SandboxSpec, watch: _Watch) -> AsyncIterator[Check]:
    with watch.step("Create"):
        sandbox = await Sandbox.create(backend, spec=spec)
    try:
        info = sandbox.info
        yield watch.check(f"{info.effective.isolation}, {described(info)}")
        for difference in {each.field: each for each in info.differences}.values():
            found = f"{difference.field}: {difference.applied or 'no limit'}"
            yield Check("warn", "Default not met", found, difference.reason)
        try:
            async for check in _use(backend, sandbox, watch):
                yield check
            for artifact in spec.artifacts:
                yield await _check_cli(sandbox, artifact)
        except SandboxError as error:
            yield failed(watch.name, error)
    finally:
        with watch.step("Destroy"):
            await sandbox.destroy()
    left = await _listed(backend, sandbox, there=False)
    yield watch.check("nothing is left", good=not left, bad=f"{', '.join(left)} is still listed")


async def _use(backend: SandboxProvider, sandbox: Sandbox, watch: _Watch) -> AsyncIterator[Check]:
    with watch.step("Exec"):
        first = await sandbox.exec(["echo", "hello"], check=True)
        times = [(await sandbox.exec(["true"])).duration_s * 1000 for _ in range(_EXECS)]
    watch.took_ms = statistics.median(times)
    yield watch.check(f"median of {_EXECS}", good=first.stdout == b"hello\n")
    content = secrets.token_bytes(_FILE_BYTES)
    with watch.step("Write"):
        await sandbox.files.write("sandboxkit-doctor", content)
    yield watch.check("1 MB")
    with watch.step("Read"):
        read = await sandbox.files.read("sandboxkit-doctor")
    yield watch.check("1 MB", good=read == content)
    with watch.step("List"):
        listed = await _listed(backend, sandbox, there=True)
    bad = f"its label finds {', '.join(listed) or 'nothing'}"
    yield watch.check("found by its label", good=listed == [sandbox.id], bad=bad)


async def _listed(backend: SandboxProvider, sandbox: Sandbox, *, there: bool) -> list[str]:
    """What its label finds, when the list has had time to tell."""
    key = {KEY_LABEL: sandbox.info.labels[KEY_LABEL]}
    listed: list[str] = []
    for pause_s in _LOOK_AGAIN_S:
        await anyio.sleep(pause_s)
        listed = [info.id async for info in backend.list(key)]
        if bool(listed) is there:
            break
    return listed


class _Watch:
    """Times one step after the other.

    Attributes:
        name: The step under way, or the last one.
        took_ms: Milliseconds that it took.
    """

    def __init__(self) -> None:
        self.name = "Provider"
        self.took_ms = 0.0

    @contextlib.contextmanager
    def step(self, name: str) -> Generator[None]:
        self.name = name
        began = time.monotonic()
        yield
        self.took_ms = (time.monotonic() - began) * 1000

    def check(self, found: str, *, good: bool = True, bad: str = _DIFFERS) -> Check:
        """The finding on the step that has ended."""
        if not good:
            return Check("fail", self.name, bad)
        digits = 1 if self.took_ms < 10 else 0
        return Check("ok", self.name, f"{self.took_ms:.{digits}f} ms, {found}")


async def _check_cli(sandbox: Sandbox, artifact: Artifact) -> Check:
    done = await sandbox.exec([artifact.target, "--version"], timeout_s=_CLI_S)
    if done.exit_code != 0:
        said = (done.stderr or done.stdout).decode(errors="replace").strip()[-200:]
        advice = "Use an image with glibc, such as the default one."
        return Check("fail", "CLI in it", f"exit code {done.exit_code}: {said}", advice)
    return Check("ok", "CLI in it", done.text.strip())
