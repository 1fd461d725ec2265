"""Images: built at Modal once, with the artifacts in them."""

from __future__ import annotations

import shlex
from collections import defaultdict
from typing import TYPE_CHECKING, Final

import anyio
import anyio.to_thread

from sandboxkit.errors import (
    AuthenticationError,
    CapacityError,
    ImageError,
    InvalidSpecError,
    OperationTimeoutError,
    ProviderUnavailableError,
    SandboxError,
    UnsupportedError,
)
from sandboxkit.progress import Progress, report
from sandboxkit.providers.modal.account import Opened
from sandboxkit.providers.modal.failures import PROVIDER, ask
from sandboxkit.spec import Artifact, SandboxSpec

if TYPE_CHECKING:
    import modal

IMAGE_ID: Final = "im-"
"""How the ids of Modal's images begin: of snapshots, and of what was built there."""

_PYTHON: Final = "3.12"
_PACKAGES: Final = ("ca-certificates", "curl", "git", "ripgrep")
_BUILD_S: Final = 1800.0
_PLATFORM: Final = "linux-x86_64"
_MODE: Final = 0o755
_NOT_THE_IMAGE: Final = (
    AuthenticationError,
    CapacityError,
    OperationTimeoutError,
    ProviderUnavailableError,
)
_Key = tuple[str | None, tuple[Artifact, ...]]


class Images:
    """The images that one account has been asked for, by reference and artifacts."""

    def __init__(self) -> None:
        self._built: dict[_Key, modal.Image] = {}
        self._building: defaultdict[_Key, anyio.Lock] = defaultdict(anyio.Lock)

    async def get(self, spec: SandboxSpec, opened: Opened) -> modal.Image:
        """The image of a spec, built if it is not there. Cancelling leaves the build to Modal.

        Raises:
            ImageError: It does not exist, or cannot be built.
            UnsupportedError: An artifact is for another platform than Modal's.
        """
        key = (spec.image, spec.artifacts)
        async with self._building[key]:
            if key not in self._built:
                self._built[key] = await _build(spec, opened)
        return self._built[key]

    def forget(self, image: modal.Image) -> bool:
        """Ask again, when it is next needed; whether it was new in this process.

        An image that was built just now is not looked for twice.
        """
        known = [key for key, built in self._built.items() if built is image]
        for key in known:
            del self._built[key]
        return bool(known)

    def clear(self) -> None:
        """Forget all: they belong to a connection that is closed."""
        self._built.clear()


async def _build(spec: SandboxSpec, opened: Opened) -> modal.Image:
    name = spec.image or "the default image"
    step = f"build {name}"
    report(Progress(step))
    try:
        # In a thread, because the SDK looks at the artifacts' files.
        image = await anyio.to_thread.run_sync(_define, spec, opened)
        built = await ask("prepare", image.build.aio(opened.app), deadline_s=_BUILD_S)
    except (*_NOT_THE_IMAGE, ImageError, InvalidSpecError):
        raise
    except SandboxError as error:
        if isinstance(error, UnsupportedError) and error.__cause__ is None:
            raise
        raise ImageError(
            f"Modal cannot build the image {name!r}: {error.__cause__ or error}. Look for a wrong "
            "name, a registry that needs a login, or an image that is not for linux/amd64.",
            op="prepare",
            provider=PROVIDER,
            retryable=False,
        ) from error
    report(Progress(step, finished=True))
    return built


def _define(spec: SandboxSpec, opened: Opened) -> modal.Image:
    import modal

    if spec.image is None:
        image = modal.Image.debian_slim(_PYTHON).apt_install(*_PACKAGES)
    elif spec.image.startswith(IMAGE_ID):
        image = modal.Image.from_id(spec.image, client=opened.client)
    else:
        # An entry point would be given ours as its arguments.
        found = modal.Image.from_registry(spec.image)  # pyright: ignore[reportUnknownMemberType]
        image = found.entrypoint([])
    for artifact in spec.artifacts:
        image = _with(image, artifact)
    return image


def _with(image: modal.Image, artifact: Artifact) -> modal.Image:
    if artifact.platform != _PLATFORM:
        raise UnsupportedError(
            f"The artifact {artifact.name} is for {artifact.platform}, and Modal's machines are "
            f"{_PLATFORM}. Give a file for that platform.",
            op="prepare",
            provider=PROVIDER,
        )
    try:
        mode = artifact.source.stat().st_mode & 0o777
    except OSError as error:
        raise InvalidSpecError(
            f"artifacts: {artifact.source} cannot be read: {error.strerror}", provider=PROVIDER
        ) from error
    image = image.add_local_file(artifact.source, artifact.target, copy=True)
    if mode != _MODE:  # a layer of its own: the SDK copies the mode that the file has here
        image = image.run_commands(f"chmod 0755 {shlex.quote(artifact.target)}")
    return image
