"""What is used of docker-py, with its types: the package has none of its own."""

# ruff: noqa: D102 - docker-py documents its own methods

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import IO, Any, Protocol

Json = dict[str, Any]


def nested(thing: Mapping[str, Any] | None, name: str) -> Json:
    """The object under `name`; empty where the engine says null, or nothing."""
    found: Json | None = (thing or {}).get(name)
    return found or {}


class Api(Protocol):
    """The part of `docker.APIClient` that the provider calls. All of it blocks."""

    @property
    def api_version(self) -> str: ...
    def info(self) -> Json: ...
    def ping(self) -> bool: ...
    def events(
        self, *, since: int, until: int, filters: Mapping[str, object], decode: bool
    ) -> Iterable[Json]: ...
    def close(self) -> None: ...

    # containers
    def create_container_from_config(self, config: Json, name: str) -> Json: ...
    def start(self, container: str) -> None: ...
    def inspect_container(self, container: str) -> Json: ...
    def containers(self, *, all: bool, filters: Mapping[str, object]) -> list[Json]: ...  # noqa: A002
    def remove_container(self, container: str, *, force: bool, v: bool) -> None: ...
    def put_archive(self, container: str, path: str, data: Iterable[bytes]) -> bool: ...
    def exec_create(
        self,
        container: str,
        cmd: list[str],
        *,
        stdin: bool,
        user: str,
        environment: list[str],
        workdir: str | None,
    ) -> Json: ...
    def exec_inspect(self, exec_id: str) -> Json: ...

    # images
    def inspect_image(self, image: str) -> Json: ...
    def pull(self, repository: str, *, tag: str, stream: bool, decode: bool) -> Iterable[Json]: ...
    def build(
        self,
        *,
        fileobj: IO[bytes],
        custom_context: bool,
        tag: str,
        rm: bool,
        forcerm: bool,
        decode: bool,
    ) -> Iterable[Json]: ...
    def import_image_from_stream(
        self, stream: Iterable[bytes], *, repository: str, tag: str, changes: list[str]
    ) -> str: ...

    # volumes
    def create_volume(self, name: str, *, labels: Mapping[str, str]) -> Json: ...
    def inspect_volume(self, name: str) -> Json: ...
    def remove_volume(self, name: str) -> None: ...
    def volumes(self, *, filters: Mapping[str, object]) -> Json: ...
