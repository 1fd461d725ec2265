"""From the name of an image to one that is on the engine."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import anyio

from sandboxkit.errors import ImageError, InvalidSpecError, SandboxError
from sandboxkit.progress import Progress, report
from sandboxkit.providers.docker import base_image
from sandboxkit.providers.docker.api import Api, Json, nested
from sandboxkit.providers.docker.engine import Engine, StillWanted
from sandboxkit.providers.docker.failures import refusal, status_of

DEFAULT_USER: Final = "1000"
_FRESH_S: Final = 30.0  # how long a look at an image counts
_ROOT: Final = frozenset({"", "0", "root"})
_UNREACHABLE: Final = (
    "no such host",
    "dial tcp",
    "timeout",
    "connection refused",
    "connection reset",
    "server misbehaving",
    "network is unreachable",
)


@dataclass(frozen=True, slots=True)
class Image:
    """An image that the engine has.

    Attributes:
        id: Its digest, which cannot come to mean another image.
        name: What it was asked for by.
        user: Who commands run as by default; never root.
        platform: Such as `linux/amd64`.
    """

    id: str
    name: str
    user: str
    platform: str


class Images:
    """The images of one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._seen: dict[str, tuple[float, Image]] = {}
        self._pulling = anyio.Lock()

    async def resolve(self, name: str | None) -> Image:
        """The image, pulled or built where the engine does not have it yet.

        Args:
            name: As for `docker pull`; None is sandboxkit's own.

        Raises:
            ImageError: There is none of this name, or it cannot be had.
            AuthenticationError: The registry wants a login.
            CapacityError: The registry limits the rate, or the disk is full.
        """
        wanted = name or await base_image.tag()
        seen = self._seen.get(wanted)
        if seen is not None and seen[0] > time.monotonic():
            return seen[1]
        image = await self._look(wanted)
        if image is None:
            await self._get(wanted, own=name is None)
            image = await self._look(wanted)
        if image is None:
            raise ImageError(f"The image {wanted} vanished just after it was made.")
        self._seen[wanted] = time.monotonic() + _FRESH_S, image
        return image

    def forget(self, image: Image) -> bool:
        """Forget a look at an image that the engine lacks now; whether there was one."""
        return self._seen.pop(image.name, None) is not None

    async def _look(self, name: str) -> Image | None:
        try:
            found = await self._engine.call("image.inspect", lambda api: api.inspect_image(name))
        except SandboxError as error:
            if status_of(error) == 404:
                return None
            if status_of(error) == 400:
                raise InvalidSpecError(
                    f"image: {name!r} is not a name that Docker knows: {error.message}",
                    provider="docker",
                ) from error
            raise
        user = str(nested(found, "Config").get("User") or "").partition(":")[0]
        return Image(
            id=found["Id"],
            name=name,
            user=DEFAULT_USER if user in _ROOT else user,
            platform=f"{found.get('Os', 'linux')}/{found.get('Architecture', 'unknown')}",
        )

    async def _get(self, name: str, *, own: bool) -> None:
        async with self._pulling if not own else base_image.building():
            if await self._look(name) is not None:
                return  # another task has just done it
            if own:
                await base_image.build(self._engine, name)
            else:
                await self._engine.work("image.pull", lambda api, go_on: _pull(api, go_on, name))


def _pull(api: Api, still_wanted: StillWanted, name: str) -> None:
    from docker.errors import APIError
    from docker.utils import parse_repository_tag

    repository, tag = parse_repository_tag(name)
    step = f"pull {name}"
    report(Progress(step))
    try:
        lines = api.pull(repository, tag=tag or "latest", stream=True, decode=True)
        read_pull(lines, step, still_wanted)
    except APIError as error:
        raise pull_error(name, error.status_code or 0, str(error.explanation or error)) from error
    except PullRefusedError as error:
        raise pull_error(name, 0, str(error)) from error
    report(Progress(step, finished=True))


class PullRefusedError(Exception):
    """The engine ended a pull with an error line."""


def read_pull(lines: Iterable[Json], step: str, still_wanted: StillWanted) -> None:
    """Report the progress of a pull, summed over the layers.

    Raises:
        PullRefusedError: The pull failed.
    """
    layers: dict[str, tuple[int, int]] = {}
    for line in lines:
        still_wanted()
        if "error" in line:
            raise PullRefusedError(str(line["error"]))
        detail: dict[str, int] = line.get("progressDetail") or {}
        layer = str(line.get("id", ""))
        if line.get("status") == "Downloading" and "total" in detail:
            layers[layer] = int(detail["current"]), int(detail["total"])
        elif line.get("status") in {"Download complete", "Pull complete"} and layer in layers:
            layers[layer] = layers[layer][1], layers[layer][1]
        else:
            continue
        done, total = (sum(column) for column in zip(*layers.values(), strict=True))
        report(Progress(step, done, total))


def pull_error(name: str, status: int, said: str) -> SandboxError:
    """The error that fits a failed pull."""
    words = said.lower()
    if any(word in words for word in _UNREACHABLE):
        return ImageError(
            f"The image {name} is not on the engine, and its registry does not answer: {said}. "
            "Check the network, or bring the image with `docker load`.",
            op="image.pull",
            provider="docker",
            retryable=True,
        )
    error = refusal(status, said, "image.pull")
    if not isinstance(error, ImageError) and type(error) is not SandboxError:
        return error
    return ImageError(
        f"The image {name} cannot be pulled: {said}. Check its name and tag; if it is private, "
        "log in with `docker login`.",
        op="image.pull",
        provider="docker",
        retryable=False,
    )
