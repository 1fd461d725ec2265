"""The credentials of the account, and the short-lived tokens made from them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Mapping

from grpclib import GRPCError, Status

from tests.emulators.modal.messages import Message

_CONTROL = "/modal.client.ModalClient/"


class Tokens:
    """Issues tokens, and lets in who shows the right ones.

    Attributes:
        token_id: Of the account.
        token_secret: Of the account.
        life_s: Of the tokens that are issued; the SDK gets another one for a router only
            where less than 30 s are left.
    """

    def __init__(self) -> None:
        self.life_s = 3600
        self.token_id = f"ak-{secrets.token_hex(11)}"
        self.token_secret = f"as-{secrets.token_hex(11)}"
        self._key = secrets.token_bytes(32)
        self._edition = 0

    def expire(self) -> None:
        """Make all command routers refuse the tokens that were issued so far."""
        self._edition += 1

    def issue(self, subject: str) -> str:
        """A JWT for one subject: `account`, or the id of a task or sandbox."""
        claims = {"sub": subject, "exp": int(time.time()) + self.life_s, "edition": self._edition}
        head, body = _base64({"alg": "HS256", "typ": "JWT"}), _base64(claims)
        return f"{head}.{body}.{self._sign(head, body)}"

    def check(self, path: str, metadata: Mapping[str, str | bytes], request: Message) -> None:
        """Refuse a request that does not prove who it comes from.

        Raises:
            GRPCError: UNAUTHENTICATED, or PERMISSION_DENIED for another's token.
        """
        shown = {name: str(value) for name, value in metadata.items()}
        if not path.startswith(_CONTROL):
            kind, _, token = shown.get("authorization", "").partition(" ")
            claims = self._read(token) if kind == "Bearer" else None
            if claims is None or claims["edition"] != self._edition:
                raise GRPCError(Status.UNAUTHENTICATED, "The token of the task is not valid")
            if claims["sub"] != _task_of(request):
                raise GRPCError(Status.PERMISSION_DENIED, "The token is for another task")
            return
        if "x-modal-client-version" not in shown:
            raise GRPCError(Status.FAILED_PRECONDITION, "The client does not tell its version")
        account = shown.get("x-modal-token-id"), shown.get("x-modal-token-secret")
        if account != (self.token_id, self.token_secret):
            raise GRPCError(
                Status.UNAUTHENTICATED, "Token ID or secret is invalid. Generate another one."
            )
        if path.endswith("V2") and not self._is_for(shown.get("x-modal-auth-token"), "account"):
            raise GRPCError(Status.UNAUTHENTICATED, "x-modal-auth-token is missing or not valid")
        of_sandbox = shown.get("x-modal-sandbox-token")
        if of_sandbox is not None and not self._is_for(
            of_sandbox, str(getattr(request, "sandbox_id", ""))
        ):
            raise GRPCError(Status.PERMISSION_DENIED, "The token is for another sandbox")

    def _is_for(self, token: str | None, subject: str) -> bool:
        claims = self._read(token or "")
        return claims is not None and claims["sub"] == subject

    def _read(self, token: str) -> dict[str, object] | None:
        head, _, rest = token.partition(".")
        body, _, signature = rest.partition(".")
        if not hmac.compare_digest(signature, self._sign(head, body)):
            return None
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        return claims if claims["exp"] > time.time() else None

    def _sign(self, head: str, body: str) -> str:
        digest = hmac.new(self._key, f"{head}.{body}".encode(), hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _task_of(request: Message) -> str:
    start = getattr(request, "start", None)
    return str(getattr(request, "task_id", "") or getattr(start, "task_id", ""))


def _base64(value: Mapping[str, object]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()
