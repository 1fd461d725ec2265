"""What the gateway must know of a service that has the models."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from sandboxkit.gateway.model.server import Request


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A request as it leaves the host.

    Attributes:
        url: Where to.
        headers: All of them; the credential is among them.
        body: What it says.
    """

    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


class Upstream(ABC):
    """A service that has the models, with the credential for it. Frozen; `repr` shows none.

    Attributes:
        name: What it is called in messages and figures.
        price_provider: Its name in `genai-prices`.
    """

    name: ClassVar[str]
    price_provider: ClassVar[str]

    @abstractmethod
    def check(self) -> None:
        """See that there is a credential, without asking anybody who has none to wait for.

        Raises:
            AuthenticationError: There is none; the message says what to set.
            InvalidSpecError: It is set up in a way that cannot be.
        """

    @abstractmethod
    def environment(self, base_url: str, token: str) -> dict[str, str]:
        """What Claude Code needs, so that it speaks to the gateway at `base_url`.

        Args:
            base_url: The gateway, as seen from inside: the token of the session is in it.
            token: The same, for a client that wants a key.
        """

    @abstractmethod
    def model_of(self, request: Request, body: Mapping[str, Any]) -> str | None:
        """The model that a request asks for; None where it asks for none.

        Raises:
            RefusedError: The request is none of those that pass.
        """

    @abstractmethod
    async def outgoing(self, request: Request, body: bytes) -> Outgoing:
        """The request as it goes out, with the credential."""

    def model_name(self, asked: str | None) -> str | None:
        """What the service calls a model that the user calls `asked`."""
        return asked
