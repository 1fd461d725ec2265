"""Preview links of the emulated Daytona."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import aiohttp

from tests.emulators.daytona.driving import eventually

if TYPE_CHECKING:
    from daytona import AsyncSandbox


async def test_a_preview_lets_in_who_has_the_token(box: AsyncSandbox) -> None:
    await box.process.exec(
        "mkdir -p /tmp/www; cd /tmp/www; echo hello > page; "
        "nohup python3 -m http.server 8765 >/dev/null 2>&1 &"
    )
    link = await box.get_preview_link(8765)
    signed = await box.create_signed_preview_url(8765, 60)
    key = {"X-Daytona-Preview-Token": link.token}
    async with aiohttp.ClientSession() as http:

        async def get(url: str, headers: dict[str, str] | None = None) -> tuple[int, str]:
            async with http.get(url, headers=headers) as answer:
                return answer.status, await answer.text()

        async def serves() -> bool:
            return (await get(f"{link.url}/page", key))[0] == 200

        await eventually(serves)
        assert await get(f"{link.url}/page", key) == (200, "hello\n")
        assert (await get(f"{link.url}/page?DAYTONA_SANDBOX_AUTH_KEY={link.token}"))[0] == 200
        for headers in (None, {"X-Daytona-Preview-Token": "wrong"}):
            status, said = await get(f"{link.url}/page", headers)
            assert (status, json.loads(said)["source"]) == (401, "DAYTONA_PROXY")
        assert await get(f"{signed.url}/page") == (200, "hello\n")
        await box.expire_signed_preview_url(8765, signed.token)
        assert (await get(f"{signed.url}/page"))[0] == 401
        nobody = await box.get_preview_link(8766)
        assert (await get(nobody.url, {"X-Daytona-Preview-Token": nobody.token}))[0] == 502
