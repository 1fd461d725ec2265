"""What a host notes of its way out, in the sandbox, for the host that comes after it.

The note is in the guest's memory, which the agent cannot reach where the guest is another
user. All the same it comes out of a sandbox: it is checked by its shape, and what does not fit
is no note. It has nothing that the sandbox's programs are not given anyway.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

_SECRETS: Final = 60  # the guest keeps 16 KiB

Placeholder = Annotated[str, Field(pattern=r"\Asandboxkit-secret-[0-9a-f]{32}\Z")]
Name = Annotated[str, Field(pattern=r"\A[A-Za-z_][A-Za-z0-9_]{0,127}\Z")]
FileName = Annotated[str, Field(pattern=r"\Aca-[0-9a-f]{8}\.pem\Z")]


class Way(BaseModel):
    """By what programs in a sandbox know the way out.

    Attributes:
        token: The password for the proxy.
        placeholders: What stands for each secret, by the secret's name.
        bundle: The name of the file with the certificates that they trust; None without secrets.
    """

    model_config = ConfigDict(strict=True, frozen=True, regex_engine="python-re")

    v: Literal[1] = 1
    what: Literal["egress"] = "egress"
    token: Annotated[str, Field(pattern=r"\A[A-Za-z0-9_-]{32}\Z")] = Field(repr=False)
    placeholders: Annotated[dict[Name, Placeholder], Field(max_length=_SECRETS)] = {}
    bundle: FileName | None = None


def note_of(token: str, placeholders: Mapping[str, str], bundle: str | None) -> str:
    """A way, written down; empty where there are so many secrets that it would not fit."""
    try:
        way = Way(token=token, placeholders=dict(placeholders), bundle=bundle)
    except ValidationError:
        return ""
    return way.model_dump_json()


def read_way(note: str) -> Way | None:
    """The way that a note is of; None where it is none, or not to be believed."""
    try:
        return Way.model_validate_json(note)
    except (ValidationError, ValueError, RecursionError):
        return None
