"""The end of a life-time at the clouds, which end sandboxes themselves."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from sandboxkit.errors import UnsupportedError
from sandboxkit.sandbox import Sandbox

if TYPE_CHECKING:
    from tests.emulators.daytona import DaytonaEmulator
    from tests.emulators.e2b import E2BEmulator
    from tests.emulators.modal import ModalEmulator

pytestmark = pytest.mark.timeout(300)


async def test_e2b_lets_it_live_on(e2b: E2BEmulator) -> None:
    """Its deadline, which renewals move, is not held at the first end any more."""
    from e2b import AsyncSandbox

    async with Sandbox.create("e2b", lifetime_s=30, lease_s=120) as sandbox:
        await sandbox.extend(600)
        ends_at = (await AsyncSandbox.get_info(sandbox.id)).end_at
        assert (ends_at - datetime.now(UTC)).total_seconds() > 60
        other = await Sandbox.attach("e2b", sandbox.id)  # it knows the label, which is older
        ends_at = (await AsyncSandbox.get_info(sandbox.id)).end_at
        assert (ends_at - datetime.now(UTC)).total_seconds() > 45
        assert other.info.expires_at
        await other.detach(keep_s=120)


async def test_daytona_lets_it_live_on(daytona: DaytonaEmulator) -> None:
    """Its time to live, in whole minutes, likewise."""
    from daytona import AsyncDaytona

    async with (
        AsyncDaytona() as client,
        Sandbox.create("daytona", lifetime_s=30, lease_s=600) as sandbox,
    ):
        await sandbox.extend(900)
        ends_at = (await client.get(sandbox.id)).auto_destroy_at
        assert ends_at is not None
        left_s = (datetime.fromisoformat(ends_at) - datetime.now(UTC)).total_seconds()
        assert left_s > 5 * daytona.minute_s


async def test_modal_refuses(modal: ModalEmulator) -> None:
    async with Sandbox.create("modal", lifetime_s=600) as sandbox:
        with pytest.raises(UnsupportedError, match="modal"):
            await sandbox.extend(60)
        assert (await sandbox.exec(["true"])).exit_code == 0
