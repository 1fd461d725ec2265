"""The walls: the command lines that make a sandbox, and that enter one."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path

from sandboxkit.errors import ProviderUnavailableError
from sandboxkit.guest import MAIN
from sandboxkit.providers.base import Command
from sandboxkit.spec import SandboxSpec
from sandboxkit_bubblewrap.place import REMOVE, UID, WRITABLE, Place

INSTALL_HINT = "apt-get install bubblewrap"
BASE_ENV = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/home", "LANG": "C.UTF-8"}
READY = b"sandboxkit-ready\n"

_SYSTEM = ("bin", "lib", "lib32", "lib64", "sbin")
# Not all of /etc: what is needed to run programs and to look up names, and no secret.
_ETC = (
    *("alternatives", "ca-certificates", "hosts", "ld.so.cache", "ld.so.conf", "ld.so.conf.d"),
    *("localtime", "nsswitch.conf", "os-release", "protocols", "resolv.conf", "services", "ssl"),
)
# Left to itself, it outlives this host until the guest ends, and cleans up after it. What
# a shell starts in the background ignores Ctrl-C; the sandbox's programs shall not.
_SUPERVISE = f'exec 4<&0; (env --default-signal "$@" 3>&2 <&4 4<&-; {REMOVE}) &'
_SAY_READY = f'echo {READY.decode().strip()} >&2; exec "$@"'
_START = f'cd -- "$0" && command -v -- "$1" >/dev/null && {{ {_SAY_READY}; }}'
_NS_GET_PARENT = 0xB702
_ENTER = {"mnt": "-m", "pid": "-p", "net": "-n", "ipc": "-i", "uts": "-u"}

# As root, the sandbox's user is truly another one, not root by another name: to the
# kernel's settings below /proc/sys, a root without capabilities is still root.
_ROOT = os.getuid() == 0
_USER = (
    ("--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID")
    if _ROOT
    else ("--unshare-user", "--uid", str(UID), "--gid", str(UID))
)
_BECOME = (
    *("setpriv", "--no-new-privs"),
    *((f"--reuid={UID}", f"--regid={UID}", "--clear-groups") if _ROOT else ()),
    *(("--bounding-set=-all", "--inh-caps=-all") if _ROOT else ()),
)


def program(name: str) -> str:
    """Where a program of this machine is.

    Raises:
        ProviderUnavailableError: It is not installed.
    """
    found = shutil.which(name)
    if found is None:
        raise ProviderUnavailableError(
            f"{name} is not installed: {INSTALL_HINT}", provider="bubblewrap", retryable=False
        )
    return found


def creating(spec: SandboxSpec, place: Place) -> list[str]:
    """The command line that makes a sandbox, whose main program is the guest."""
    inside = (*_BECOME, "/bin/sh", "-c", _SAY_READY, "sh", *MAIN)
    bwrap = [program("bwrap"), "--info-fd", "3", *_walls(spec, place), "--", *inside]
    return ["/bin/sh", "-c", _SUPERVISE, str(place.path), *bwrap]


def _walls(spec: SandboxSpec, place: Place) -> Iterator[str]:
    yield from (*_USER, "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--hostname", "sandbox")
    if spec.network.mode == "none":
        yield "--unshare-net"
    yield from ("--ro-bind", "/usr", "/usr", "--proc", "/proc", "--dev", "/dev")
    for name in _SYSTEM:
        path = Path("/", name)
        if path.is_symlink():
            yield from ("--symlink", str(path.readlink()), str(path))
        else:
            yield from ("--ro-bind-try", str(path), str(path))
    yield from _above("/etc/passwd")
    for name in _ETC:
        yield from ("--ro-bind-try", f"/etc/{name}", f"/etc/{name}")
    for name in ("passwd", "group", "shadow"):
        yield from ("--ro-bind", str(place.path / name), f"/etc/{name}")
    for name in WRITABLE:
        inside = spec.workdir if name == "work" else f"/{name}"
        yield from ("--bind", str(place.path / name), inside)
    for artifact in spec.artifacts:
        yield from _above(artifact.target)
        yield from ("--ro-bind", str(artifact.source.resolve()), artifact.target)
    yield from ("--perms", "1777", "--tmpfs", "/dev/shm", "--chdir", "/")  # noqa: S108
    for shut in ("/dev", "/proc", "/"):
        yield from ("--remount-ro", shut)


def _above(path: str) -> Iterator[str]:
    """The directories above `path`, open to all: those that bubblewrap makes are not."""
    for directory in reversed(Path(path).parents[:-1]):
        yield from ("--perms", "0755", "--dir", str(directory))


@contextlib.contextmanager
def entering(
    namespaces: Mapping[str, int], command: Command, workdir: str
) -> Generator[tuple[list[str], tuple[int, ...]]]:
    """The command line that starts a program in a sandbox that lives.

    Yields:
        It, and the descriptors that it must be given.
    """
    first = namespaces["child-pid"]
    flags = [flag for name, flag in _ENTER.items() if f"{name}-namespace" in namespaces]
    start = [*_BECOME, "/bin/sh", "-c", _START, command.cwd or workdir, *command.argv]
    if _ROOT:
        yield [program("nsenter"), "-t", str(first), *flags, "--", *start], ()
        return
    # The walls belong to a user namespace (where bubblewrap could mount what it must), the
    # processes to one inside of that.
    with Path(f"/proc/{first}/ns/user").open("rb") as inner:
        outer = fcntl.ioctl(inner, _NS_GET_PARENT)
    try:
        through = [f"--user=/proc/self/fd/{outer}", "--preserve-credentials", *flags, "--"]
        inward = ["nsenter", "-t", "1", "-U", "--preserve-credentials", "--"]
        yield [program("nsenter"), "-t", str(first), *through, *inward, *start], (outer,)
    finally:
        os.close(outer)
