"""What a backend must supply: five verbs, and the truth about itself.

`create`, `attach`, `list` on `SandboxProvider`; `spawn`, `destroy` on
`SandboxHandle`. All else (processes with separate streams, signals, files, ports)
is built by sandboxkit on `spawn` alone, the same for every backend.

docs/write-a-provider.md walks through a whole one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from importlib.util import find_spec
from typing import ClassVar, Literal, NamedTuple

from sandboxkit.errors import SandboxNotFoundError, UnsupportedError
from sandboxkit.providers.info import Difference, Effective, SandboxInfo, State
from sandboxkit.spec import Resources, SandboxSpec

INTERFACE_VERSION = 1
"""The version of this interface. A plugin written for another is refused by name."""

Encoding = Literal["binary", "text_lines"]


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend can really do. Each claim is tested by the conformance kit.

    Attributes:
        isolation: The wall around a sandbox: `none`, `process`, `container`,
            `gvisor`, `microvm`.
        limits: The fields of `Resources` that the backend enforces exactly.
        limits_at_create: Those of which only `create` can know: it enforces, refuses
            or reports them itself.
        network: The network modes that it enforces. A list of hosts stands on `none`;
            `allow` claims a filter of its own that keeps a list exactly (`native=True`).
        runtimes: Whether `SandboxSpec.runtime` can be chosen.
        images: Whether any image can be chosen.
        lifetime: Whether the backend itself ends a sandbox after its life-time,
            without anyone of ours alive.
        renew: Whether the backend ends a sandbox by itself unless `renew` is called in
            time. Where it does not, the guest alone holds the lease.
        artifacts: Whether it mounts `SandboxSpec.artifacts` itself. Where it does
            not, sandboxkit uploads them through the channel.
        guest_user: A user, other than the sandbox's own, that the guest can run as,
            so that the agent cannot touch it; None where there is none.
        pause: Whether `pause` and `resume` work.
        snapshot: Whether `snapshot` and `remove_snapshot` work. An image has all files,
            those of the artifacts too.
        expose: Whether `expose` gives a public URL.
        extend: Whether the backend's own end of a life-time (`lifetime`) can be put off.
        creates_per_s: How many sandboxes a second the service lets one account create;
            None is no limit that is known.
        concurrent: How many it lets one account have at once; likewise.
    """

    isolation: Literal["none", "process", "container", "gvisor", "microvm"]
    limits: frozenset[str] = frozenset()
    limits_at_create: frozenset[str] = frozenset()
    network: frozenset[str] = frozenset({"open"})
    runtimes: bool = False
    images: bool = False
    lifetime: bool = False
    renew: bool = False
    artifacts: bool = False
    guest_user: str | None = None
    pause: bool = False
    snapshot: bool = False
    expose: bool = False
    extend: bool = False
    creates_per_s: float | None = None
    concurrent: int | None = None


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a backend would sign in with.

    Attributes:
        found: Whether there is something to sign in with, or nothing is needed.
        said: Where it was found, or what to set: never the credential itself.
    """

    found: bool
    said: str


@dataclass(frozen=True, slots=True)
class Exposed:
    """A port of a sandbox, as the world can reach it.

    Attributes:
        url: Its address.
        headers: What each request needs to be let in; empty where anyone is.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)


@dataclass(frozen=True, slots=True)
class Command:
    """One program to start in a sandbox.

    Attributes:
        argv: The program and its arguments; never joined to a shell line.
        env: Variables added to those of the sandbox.
        cwd: The directory to start in; None is the backend's default.
        user: Name or number; None is the sandbox's own user.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    cwd: str | None = None
    user: str | None = None


class Output(NamedTuple):
    """A piece of what a program wrote: on file descriptor 1 or 2."""

    fd: Literal[1, 2]
    data: bytes


class ByteChannel(ABC):
    """The standard streams of one spawned program.

    One task receives, others may send; `send` calls do not overlap. Bytes arrive
    exactly and in order; with the encoding `text_lines` only ASCII lines ending in
    a newline are sent, and lines are what must arrive whole.
    """

    encoding: Encoding = "binary"

    @abstractmethod
    async def send(self, data: bytes) -> None:
        """Write all of `data` to the program's stdin; returns when it is on its way.

        Raises:
            ConnectionLostError: The program or the connection is gone.
        """

    @abstractmethod
    async def send_eof(self) -> None:
        """Close the program's stdin. A second call does nothing."""

    @abstractmethod
    async def receive(self) -> Output | None:
        """The next piece of output, at most 1 MiB; None when both streams have ended.

        The end of output says nothing about the program: ask `wait`. Cancelling
        loses no byte: what had not been returned is returned by the next call.

        Raises:
            ConnectionLostError: The connection broke before the output ended.
        """

    @abstractmethod
    async def wait(self) -> int | None:
        """The exit code (a signal is its negative number), or None if it cannot be known."""

    @abstractmethod
    async def aclose(self) -> None:
        """Let go of the connection, within 5 s. The program is not promised to end."""


class SandboxHandle(ABC):
    """One living sandbox, as the backend sees it.

    Attributes:
        info: What was applied at creation, or found by `attach`.
    """

    info: SandboxInfo

    @abstractmethod
    async def spawn(self, command: Command) -> ByteChannel:
        """Start one program, with its standard streams connected.

        Raises:
            SandboxDiedError: The sandbox has ended.
            ProviderUnavailableError: The backend does not answer.
            ExecStartError: The program could not be started.
        """

    @abstractmethod
    async def destroy(self) -> None:
        """End the sandbox and remove all that belongs to it.

        Idempotent, also when called twice at once: gone already is success.
        Called shielded from cancellation, with a deadline.
        """

    async def aclose(self) -> None:
        """Let go of what this object holds; the sandbox lives on. Idempotent."""
        return

    # optional: each is called only where `Capabilities` claims it

    async def renew(self, seconds: float) -> None:  # noqa: ARG002
        """Have the backend end the sandbox `seconds` from now, if nobody renews it again.

        Called every few seconds while a host lives. The backend may round up, and add
        what a slow network needs; it never ends the sandbox earlier.
        """
        raise _unclaimed(self, "renew")

    async def extend(self, seconds: float) -> None:  # noqa: ARG002
        """Have the backend end the sandbox's life-time no earlier than `seconds` from now.

        For one that was made with a `lifetime_s`. Called again with what is left, where
        another host has put the end off; leases (`renew`) go on beside it.
        """
        raise _unclaimed(self, "extend")

    async def pause(self) -> None:
        """Freeze the sandbox, with its processes and memory."""
        raise _unclaimed(self, "pause")

    async def resume(self) -> None:
        """Go on where `pause` stopped. One that runs already is success."""
        raise _unclaimed(self, "resume")

    async def snapshot(self, name: str) -> str:  # noqa: ARG002
        """Keep the sandbox's files as an image.

        Args:
            name: What to call it, where the backend has names: letters, digits, `-`.

        Returns:
            What to give as `SandboxSpec.image` to start from it.
        """
        raise _unclaimed(self, "snapshot")

    async def expose(self, port: int) -> Exposed:  # noqa: ARG002
        """The public address of a port, which the spec has declared."""
        raise _unclaimed(self, "expose")


class SandboxProvider(ABC):
    """A backend.

    Its module and its constructor import no vendor package and connect to nothing, so
    that what there is can be listed; the first call does.

    Attributes:
        name: The name it is chosen by.
        interface_version: The `INTERFACE_VERSION` it was written for: a literal
            number, so that a later sandboxkit can tell.
        packages: The vendor's packages that it imports when it is used.
        install_hint: The line that installs them.
    """

    name: ClassVar[str]
    interface_version: ClassVar[int]
    packages: ClassVar[tuple[str, ...]] = ()
    install_hint: ClassVar[str] = ""

    @classmethod
    def missing(cls) -> str | None:
        """What must be installed before it can be used, as a sentence; None if nothing."""
        absent = [package for package in cls.packages if find_spec(package) is None]
        if not absent:
            return None
        hint = cls.install_hint or f'pip install "sandboxkit[{cls.name}]"'
        return f"it needs the package {absent[0]!r}, which is not installed: {hint}"

    def credentials(self) -> Credentials:
        """What it would sign in with; asks nobody."""
        return Credentials(found=True, said="none needed")

    def account(self) -> str:
        """What tells its account from others at the same service; asks nobody.

        `creates_per_s` and `concurrent` are an account's, and are kept by all objects of
        this name with one account together. A digest of the key, say: never the key.
        """
        return ""

    @abstractmethod
    def capabilities(self) -> Capabilities:
        """What the backend can do; needs no connection and no vendor package."""

    async def prepare(self, spec: SandboxSpec) -> None:  # noqa: ARG002
        """Make ready what `create` needs and what may take long: images, volumes.

        Called before `create`, and may be cancelled at any time. Does nothing unless
        overridden. Raises as `create` does.
        """
        return

    @abstractmethod
    async def create(self, spec: SandboxSpec) -> SandboxHandle:
        """Create a sandbox, with all of `spec.labels` set in the creating call itself.

        `spec.key` is unique for this sandbox and chosen before the call: name the
        sandbox by it, so that a create whose answer was lost can be found.
        sandboxkit has checked the spec against `capabilities`; what only the
        backend can know is checked here, before anything is created. Environment,
        work directory and time-outs are none of a backend's business: they go
        through the channel. Called shielded from cancellation. A failed create leaves
        nothing behind.

        Raises:
            UnsupportedError: The spec asks for what cannot be enforced here.
            ImageError: The image does not exist, or cannot be had.
            AuthenticationError: The backend refuses the credentials.
            ProviderUnavailableError: The backend does not answer.
            CapacityError: The backend has no room.
        """

    @abstractmethod
    async def attach(self, sandbox_id: str) -> SandboxHandle:
        """Take up a living sandbox that sandboxkit created, in whichever process.

        Raises:
            SandboxNotFoundError: There is none of this id, or it is not ours.
        """

    @abstractmethod
    def list(self, labels: Mapping[str, str]) -> AsyncIterator[SandboxInfo]:
        """All sandboxes of sandboxkit that carry all of `labels`, stopped ones too."""

    async def destroy(self, sandbox_id: str) -> None:
        """End a sandbox of ours in whichever state it is, a stopped one too.

        Gone already is success. Called shielded from cancellation, with a deadline.
        Overridden where `attach` refuses some that are still there.

        Raises:
            SandboxNotFoundError: What has this id is not of sandboxkit.
        """
        try:
            handle = await self.attach(sandbox_id)
        except SandboxNotFoundError:
            return
        await handle.destroy()

    async def clock(self) -> datetime | None:
        """What time it is at the backend, aware; None where it does not tell.

        By it the age of what another machine has left is told, as this one's clock may be
        wrong.
        """
        return None

    async def remove_snapshot(self, image: str) -> None:
        """Remove what `SandboxHandle.snapshot` returned; gone already is success.

        Raises:
            UnsupportedError: This is not a snapshot of sandboxkit's, or there are none.
        """
        raise UnsupportedError(
            f"{self.name} has no snapshots, such as {image!r}", provider=self.name
        )

    async def aclose(self) -> None:
        """Let go of connections. Sandboxes live on."""
        return


def _unclaimed(handle: SandboxHandle, op: str) -> UnsupportedError:
    provider, sandbox_id = handle.info.provider, handle.info.id
    return UnsupportedError(
        f"{provider} cannot {op} a sandbox", op=op, provider=provider, sandbox_id=sandbox_id
    )


__all__ = [
    "INTERFACE_VERSION",
    "ByteChannel",
    "Capabilities",
    "Command",
    "Credentials",
    "Difference",
    "Effective",
    "Encoding",
    "Exposed",
    "Output",
    "Resources",
    "SandboxHandle",
    "SandboxInfo",
    "SandboxProvider",
    "State",
]
