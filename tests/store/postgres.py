"""A PostgreSQL server of our own: a private cluster on a Unix socket, run by a plain user."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path


def programs() -> Path | None:
    """The directory with `initdb` and `postgres`; None where there is none."""
    homes = [*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]  # Debian's
    if (initdb := shutil.which("initdb")) is not None:
        homes.append(Path(initdb).parent)
    wanted = ("initdb", "postgres", "createdb", "pg_isready", "psql")
    return next((home for home in homes if all((home / each).exists() for each in wanted)), None)


MISSING = "no PostgreSQL server is installed: apt-get install postgresql"


class Cluster:
    """Started at once; `stop` ends it and removes what it wrote."""

    def __init__(self, bin_directory: Path) -> None:
        self._bin = bin_directory
        # In /tmp, because the name of a socket has 107 bytes at most.
        self._top = Path(tempfile.mkdtemp(prefix="sandboxkit-pg-", dir="/tmp"))
        self._user = _plain_user()
        if self._user is not None:
            shutil.chown(self._top, self._user)
        data = str(self._top / "data")
        self._run("initdb", "-D", data, "-U", "tests", "-A", "trust", "-N", "-E", "UTF8")
        log = (self._top / "log").open("wb")
        self._server = subprocess.Popen(
            [
                str(self._bin / "postgres"),
                *("-D", data, "-k", str(self._top), "-F"),
                *("-c", "listen_addresses=", "-c", "max_connections=50"),
            ],
            user=self._user,
            group=None if self._user is None else pwd.getpwnam(self._user).pw_gid,
            extra_groups=None if self._user is None else [],
            cwd=self._top,
            stdout=subprocess.DEVNULL,
            stderr=log,
        )
        log.close()
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self._bin / program), *arguments],
            user=self._user,
            group=None if self._user is None else pwd.getpwnam(self._user).pw_gid,
            extra_groups=None if self._user is None else [],
            cwd=self._top,
            env={**os.environ, "HOME": str(self._top)},
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()

    def _wait(self) -> None:
        until = time.monotonic() + 60
        ready = [str(self._bin / "pg_isready"), "-q", "-h", str(self._top)]
        while subprocess.run(ready, check=False).returncode != 0:
            assert self._server.poll() is None, (self._top / "log").read_text()
            assert time.monotonic() < until, "PostgreSQL does not answer"
            time.sleep(0.05)

    def database(self) -> str:
        """The URL of a new, empty database."""
        name = f"t{secrets.token_hex(6)}"
        self._run("createdb", "-h", str(self._top), "-U", "tests", name)
        return f"postgresql://tests@/{name}?host={self._top}"

    def cut(self) -> None:
        """Cut all connections, as a restart of the server does."""
        self._run(
            *("psql", "-h", str(self._top), "-U", "tests", "-d", "template1", "-qc"),
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname LIKE 't%'"
            " AND pid <> pg_backend_pid()",
        )

    def stop(self) -> None:
        self._server.send_signal(signal.SIGINT)  # "fast": connections are cut
        self._server.wait(60)
        shutil.rmtree(self._top)


def _plain_user() -> str | None:
    """PostgreSQL refuses to run as root."""
    if os.getuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"
