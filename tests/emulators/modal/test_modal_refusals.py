"""The emulated Modal: what it refuses, as the real one does."""

from __future__ import annotations

from typing import Any

import modal
import modal.exception
import pytest
from grpclib import GRPCError, Status
from grpclib.client import Channel
from modal_proto import api_pb2 as api
from modal_proto import task_command_router_pb2 as sr
from modal_proto.api_grpc import ModalClientStub
from modal_proto.task_command_router_grpc import TaskCommandRouterStub

from tests.emulators.modal import ModalEmulator
from tests.emulators.modal.driving import APP, Create, sh


async def test_a_name_is_unique_while_its_sandbox_runs(create: Create) -> None:
    first = await create(name="taken")
    with pytest.raises(modal.exception.AlreadyExistsError, match="taken"):
        await create(name="taken")
    await first.terminate.aio()
    await create(name="taken")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeout": 86401}, "timeout"),
        ({"timeout": 0}, "timeout"),
        ({"cpu": (65.0, 65.0)}, "CPU"),
        ({"cpu": 0.01}, "CPU"),
        ({"memory": (1, 1)}, "memory"),
        ({"memory": 400_000}, "memory"),
        ({"encrypted_ports": [80], "h2_ports": [80], "block_network": False}, "twice"),
        ({"encrypted_ports": [70000], "block_network": False}, "port"),
    ],
)
async def test_what_is_out_of_range_is_refused(
    cloud: ModalEmulator, create: Create, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(modal.exception.InvalidError, match=message):
        await create(**options)
    assert not cloud.sandboxes()


async def test_a_command_line_that_is_too_long_is_refused(
    monkeypatch: pytest.MonkeyPatch, create: Create
) -> None:
    sandbox = await create()
    monkeypatch.setattr("modal.sandbox._common.ARG_MAX_BYTES", 10**6)
    with pytest.raises(modal.exception.InvalidError, match="65536"):
        await sandbox.exec.aio("true", "x" * 65536)
    with pytest.raises(modal.exception.InvalidError, match="65536"):
        await create("true", "x" * 65536)


async def test_a_wrong_key_is_refused(cloud: ModalEmulator) -> None:
    client = await modal.Client.from_credentials.aio(cloud.tokens.token_id, "as-wrong")
    with pytest.raises(modal.exception.AuthError):
        await modal.App.lookup.aio(APP, client=client)
    await client.close.aio()


async def test_each_service_wants_its_own_token(
    cloud: ModalEmulator, create: Create, app: Any
) -> None:
    first, second = await create(), await create()
    task, other = (cloud.sandbox(each.object_id).task_id for each in (first, second))
    account = {
        "x-modal-client-version": "1.6.4",
        "x-modal-token-id": cloud.tokens.token_id,
        "x-modal-token-secret": cloud.tokens.token_secret,
    }
    bearer = {"authorization": f"Bearer {cloud.tokens.issue(task)}"}
    host, port = cloud.url.removeprefix("http://").split(":")
    async with Channel(host, int(port)) as channel:
        control, router = ModalClientStub(channel), TaskCommandRouterStub(channel)
        wanted = api.SandboxListRequest(app_id=app.app_id)
        poll = {name: sr.TaskExecPollRequest(task_id=name, exec_id="x") for name in (task, other)}
        asked = [
            (control.SandboxListV2(wanted, metadata=account), Status.UNAUTHENTICATED),
            (control.SandboxListV2(wanted, metadata={}), Status.FAILED_PRECONDITION),
            (router.TaskExecPoll(poll[task], metadata=account), Status.UNAUTHENTICATED),
            (router.TaskExecPoll(poll[other], metadata=bearer), Status.PERMISSION_DENIED),
            (router.TaskExecPoll(poll[task], metadata=bearer), Status.NOT_FOUND),
        ]
        for asking, status in asked:
            with pytest.raises(GRPCError) as caught:
                await asking
            assert caught.value.status is status


async def test_what_is_not_there_is_not_found(app: Any, client: Any) -> None:
    with pytest.raises(modal.exception.NotFoundError):
        await modal.App.lookup.aio("no-such-app", client=client)
    with pytest.raises(modal.exception.NotFoundError):
        await modal.Sandbox.from_id.aio(f"sb-{'A' * 26}", client=client)
    with pytest.raises(modal.exception.NotFoundError):
        await modal.Sandbox.from_name.aio(APP, "nobody", client=client)


async def test_what_is_not_emulated_says_its_name(create: Create) -> None:
    with pytest.raises(modal.exception.UnimplementedError, match="VolumeGetOrCreate"):
        await create(volumes={"/v": modal.Volume.from_name("v", create_if_missing=True)})
    sandbox = await create()
    with pytest.raises(modal.exception.UnimplementedError, match="SandboxCreateConnectTokenV2"):
        await sandbox.create_connect_token.aio()


async def test_an_expired_token_of_a_router_is_renewed(
    cloud: ModalEmulator, create: Create, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cloud.tokens, "life_s", 20)
    sandbox = await create()
    assert await sh(sandbox, "echo one") == "one\n"
    cloud.tokens.expire()
    assert await sh(sandbox, "echo two") == "two\n"
