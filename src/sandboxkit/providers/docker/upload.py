"""One file into a volume, through a container that is never started.

It works with a remote engine, where a bind mount does not.
"""

from __future__ import annotations

import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from sandboxkit.errors import InvalidSpecError
from sandboxkit.progress import Progress, report
from sandboxkit.providers.docker.api import Api
from sandboxkit.providers.docker.engine import StillWanted
from sandboxkit.providers.docker.images import Image
from sandboxkit.spec import Artifact

CACHE_LABEL: Final = "sandboxkit.cache"  # kept on purpose, by containers of all owners
_MOUNT: Final = "/sandboxkit-artifact"
_PIECE: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Upload:
    """What goes where. Calling it blocks until all is there.

    Attributes:
        artifact: The file.
        volume: The volume, and the name of the container.
        image: Any image that the engine has.
    """

    artifact: Artifact
    volume: str
    image: Image

    def __call__(self, api: Api, still_wanted: StillWanted) -> None:
        """Upload; the container is left to the caller, who removes it however this ends."""
        size = size_of(self.artifact)
        container = api.create_container_from_config(self._request(), self.volume)
        step = f"upload {self.artifact.name} {self.artifact.version}"

        def counted() -> Iterator[bytes]:
            done = 0
            name = PurePosixPath(self.artifact.target).name
            for piece in tar_of(self.artifact.source, name, size):
                still_wanted()
                yield piece
                done = min(done + len(piece), size)
                report(Progress(step, done, size))

        api.put_archive(container["Id"], _MOUNT, counted())
        report(Progress(step, size, size, finished=True))

    def _request(self) -> dict[str, object]:
        mount = {
            "Type": "volume",
            "Source": self.volume,
            "Target": _MOUNT,
            "VolumeOptions": {"NoCopy": True},
        }
        return {
            "Image": self.image.id,
            "Entrypoint": ["/never-started"],
            "Labels": {CACHE_LABEL: "filling"},
            "HostConfig": {"NetworkMode": "none", "Mounts": [mount]},
        }


def size_of(artifact: Artifact) -> int:
    """The size of the file in bytes.

    Raises:
        InvalidSpecError: It cannot be read, or is not a plain file.
    """
    try:
        status = artifact.source.stat()
    except OSError as error:
        raise InvalidSpecError(
            f"The artifact {artifact.name} cannot be read: {error}.", provider="docker"
        ) from error
    if not stat.S_ISREG(status.st_mode):
        raise InvalidSpecError(
            f"The artifact {artifact.name} is not a file: {artifact.source}.", provider="docker"
        )
    return status.st_size


def tar_of(source: Path, name: str, size: int) -> Iterator[bytes]:
    """A tar archive with one executable file, piece by piece.

    Raises:
        OSError: The file cannot be read, or is shorter than `size`.
    """
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = size, 0o755, int(source.stat().st_mtime)
    yield member.tobuf()
    left = size
    with source.open("rb") as file:
        while left:
            piece = file.read(min(_PIECE, left))
            if not piece:
                raise OSError(f"{source} became shorter while it was read")
            left -= len(piece)
            yield piece
    yield bytes(-size % tarfile.BLOCKSIZE + 2 * tarfile.BLOCKSIZE)
