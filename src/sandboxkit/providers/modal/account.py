"""With which account, and where: tokens, the client, the app."""

from __future__ import annotations

import hashlib
import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.to_thread

from sandboxkit.errors import OperationTimeoutError, ProviderUnavailableError
from sandboxkit.providers.base import Credentials
from sandboxkit.providers.modal.failures import PROVIDER, ask

if TYPE_CHECKING:
    import modal

_CONNECT_S: Final = 20.0
_CLOSE_S: Final = 5.0
# By itself the SDK waits without end where Modal limits the rate.
_THROTTLE_S: Final = 10


@dataclass(frozen=True, slots=True)
class Opened:
    """A connection that is open.

    Attributes:
        client: The SDK's client.
        app: The app that the sandboxes belong to.
        app_name: Its name.
    """

    client: modal.Client
    app: modal.App
    app_name: str


class Account:
    """One account of Modal, connected to when it is first needed.

    Args:
        app: The name of the app.
        token_id: The token; without it, the SDK's own configuration is asked.
        token_secret: Its secret.
        environment: The environment of the workspace; None is the SDK's own choice.
    """

    def __init__(
        self,
        app: str,
        token_id: str | None,
        token_secret: str | None,
        environment: str | None,
    ) -> None:
        self._app = app
        self._token = (token_id, token_secret)
        self._environment = environment
        self._opened: Opened | None = None
        self._owned = False
        self._opening = anyio.Lock()

    async def open(self, *, afresh: bool = False) -> Opened:
        """The connection; made at the first call.

        Args:
            afresh: Whether to look the app up again, which somebody may have removed.

        Raises:
            AuthenticationError: There is no token, or it is refused.
            ProviderUnavailableError: Modal does not answer.
        """
        async with self._opening:
            try:
                if self._opened is None:
                    await anyio.to_thread.run_sync(_import_sdk)  # it takes most of a second
                    self._opened = await self._open()
                elif afresh:
                    self._opened = await self._with_app(self._opened.client)
            except OperationTimeoutError as error:
                # The SDK goes on dialling for a minute; what it has heard it does not tell.
                raise ProviderUnavailableError(
                    f"Modal does not answer at {_server()} within {_CONNECT_S:g} s. Look at the "
                    "network and at status.modal.com, then try again.",
                    op="connect",
                    provider=PROVIDER,
                    retryable=True,
                ) from error
            return self._opened

    async def _open(self) -> Opened:
        client = await ask("connect", self._connect(), deadline_s=_CONNECT_S)
        try:
            return await self._with_app(client)
        except BaseException:
            await self._let_go(client)
            raise

    async def _with_app(self, client: modal.Client) -> Opened:
        import modal

        looking = modal.App.lookup.aio(
            self._app,
            client=client,
            environment_name=self._environment,
            create_if_missing=True,
        )
        app = await ask("connect", looking, deadline_s=_CONNECT_S)
        return Opened(client, app, self._app)

    async def _connect(self) -> modal.Client:
        import modal
        from modal.config import config

        token_id = self._token[0] or config.get("token_id")
        secret = self._token[1] or config.get("token_secret")
        self._owned = bool(token_id and secret)
        if not self._owned:  # an OAuth login, or a container of Modal's; or it says what is missing
            return await modal.Client.from_env.aio()  # pyright: ignore[reportUnknownMemberType]
        return await modal.Client.from_credentials.aio(token_id, secret)

    async def _let_go(self, client: modal.Client) -> None:
        """Close the client, unless the whole process shares it."""
        if self._owned:
            with anyio.move_on_after(_CLOSE_S, shield=True):
                await client.close.aio()

    async def aclose(self) -> None:
        """Close the connection; the next call opens another."""
        opened, self._opened = self._opened, None
        if opened is not None:
            await self._let_go(opened.client)

    def credentials(self) -> Credentials:
        """What it would sign in with, without the SDK."""
        _, said = self._token_id()
        missing = "set MODAL_TOKEN_ID and MODAL_TOKEN_SECRET, or run `modal token new`"
        return Credentials(found=bool(said), said=said or missing)

    def digest(self) -> str:
        """What tells this account from others."""
        token_id, _ = self._token_id()
        known = f"{os.environ.get('MODAL_SERVER_URL', '')} {token_id}"
        return hashlib.sha256(known.encode()).hexdigest()[:16]

    def _token_id(self) -> tuple[str, str]:
        """The name of the token (not its secret), and where it was found."""
        if all(self._token):
            return str(self._token[0]), "given in the program"
        if os.environ.get("MODAL_TOKEN_ID") and os.environ.get("MODAL_TOKEN_SECRET"):
            return os.environ["MODAL_TOKEN_ID"], "MODAL_TOKEN_ID and MODAL_TOKEN_SECRET"
        path = Path(os.environ.get("MODAL_CONFIG_PATH") or "~/.modal.toml").expanduser()
        profile, settings = _profile(path)
        name = settings.get("token_id") or settings.get("oauth_client_id")
        return (str(name), f"the profile {profile!r} in {path}") if name else ("", "")


def _import_sdk() -> None:
    from modal.config import config  # and with it all of the SDK

    if config.get("max_throttle_wait") is None:
        config.override_locally("max_throttle_wait", str(_THROTTLE_S))


def _server() -> str:
    from modal.config import config

    return str(config.get("server_url"))


def _profile(path: Path) -> tuple[str, dict[str, Any]]:
    """The profile of the SDK's configuration file that is in use, and what it says."""
    try:
        profiles = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return "", {}
    tables: dict[str, dict[str, Any]] = {
        name: table for name, table in profiles.items() if isinstance(table, dict)
    }
    active = (name for name, table in tables.items() if table.get("active") is True)
    name = os.environ.get("MODAL_PROFILE") or next(active, "default")
    return name, tables.get(name, {})
