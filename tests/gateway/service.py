"""Services that have models, as far as the gateway can tell: they record, verify and answer."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Self

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from sandboxkit.gateway.model.server import Answer, HttpServer, Request

USAGE = {"input_tokens": 12, "output_tokens": 3}
EVENTS: list[dict[str, Any]] = [
    {"type": "message_start", "message": {"usage": {"input_tokens": 12, "output_tokens": 1}}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi."}},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 3}},
    {"type": "message_stop"},
]


class Service:
    """Answers each request with the same events."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.hung_up = asyncio.Event()
        self.stalls = False
        self._server = HttpServer(self._handle)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.port}"

    async def __aenter__(self) -> Self:
        await self._server.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        await self._server.__aexit__(None, None, None)

    async def _handle(self, request: Request, answer: Answer) -> None:
        self.requests.append(request)
        await self.check(request, answer)
        if answer.begun:
            return
        await answer.start(200, [(b"content-type", self.kind), (b"transfer-encoding", b"chunked")])
        try:
            async for event in self.events(request):
                await answer.send(self.packed(event))
                if self.stalls:
                    await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.hung_up.set()
            raise
        await answer.end()

    kind = b"text/event-stream"

    async def events(self, request: Request) -> AsyncGenerator[Mapping[str, Any]]:
        """What a streamed answer consists of."""
        for event in EVENTS:
            yield event

    async def check(self, request: Request, answer: Answer) -> None:
        """Refuse what the real one would."""

    def packed(self, event: Mapping[str, Any]) -> bytes:
        return f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()


class KeyedService(Service):
    """Lets in who has one of the keys, in the header that it wants."""

    def __init__(self, header: str, *keys: str) -> None:
        super().__init__()
        self.header = header
        self.keys = set(keys)

    async def check(self, request: Request, answer: Answer) -> None:
        if request.header(self.header) not in self.keys:
            body = b'{"type": "error", "error": {"type": "authentication_error", "message": "no"}}'
            await answer.whole(401, body, {"content-type": "application/json"})


class BedrockService(Service):
    """Verifies the signature with botocore's own signer, as the service does with its."""

    kind = b"application/vnd.amazon.eventstream"

    def __init__(self, secrets: Mapping[str, str], region: str) -> None:
        super().__init__()
        self.secrets = dict(secrets)
        self.tokens: dict[str, str] = {}
        self._region = region

    async def check(self, request: Request, answer: Answer) -> None:
        if not self._is_signed(request):
            body = b'{"message": "The security token included in the request is expired"}'
            await answer.whole(403, body, {"content-type": "application/json"})

    def _is_signed(self, request: Request) -> bool:
        authorization = request.header("authorization")
        parts = authorization.removeprefix("AWS4-HMAC-SHA256").split(",")
        split = (part.strip().partition("=") for part in parts)
        fields = {name: value for name, _, value in split}
        key, date, region, service, _ = fields["Credential"].split("/")
        if (region, service) != (self._region, "bedrock") or key not in self.secrets:
            return False
        signed = {name: request.header(name) for name in fields["SignedHeaders"].split(";")}
        if "host" not in signed or self.tokens.get(key, "") != request.header(
            "x-amz-security-token"
        ):
            return False
        again = AWSRequest(
            method=request.method,
            url=f"{self.url}{request.target}",
            data=request.body,
            headers=signed,
        )
        again.context["timestamp"] = request.header("x-amz-date")
        signer = SigV4Auth(Credentials(key, self.secrets[key]), "bedrock", region)
        canonical = signer.canonical_request(again)
        to_sign = signer.string_to_sign(again, canonical)
        return bool(date) and signer.signature(to_sign, again) == fields["Signature"]

    def packed(self, event: Mapping[str, Any]) -> bytes:
        inside = base64.b64encode(json.dumps(event).encode()).decode()
        return event_stream_message(json.dumps({"bytes": inside}).encode())


def event_stream_message(payload: bytes) -> bytes:
    """One message of Amazon's event stream: lengths, headers, payload, two checksums."""
    import struct
    from binascii import crc32

    headers = b"".join(
        struct.pack(">B", len(name)) + name + b"\x07" + struct.pack(">H", len(value)) + value
        for name, value in (
            (b":event-type", b"chunk"),
            (b":content-type", b"application/json"),
            (b":message-type", b"event"),
        )
    )
    prelude = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
    message = prelude + struct.pack(">I", crc32(prelude)) + headers + payload
    return message + struct.pack(">I", crc32(message))
