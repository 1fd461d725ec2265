"""The control plane: apps, secrets, and the life of sandboxes."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterable

from grpclib import GRPCError, Status
from modal_proto import api_pb2 as api

from tests.emulators.modal.definition import check
from tests.emulators.modal.messages import Message, nothing
from tests.emulators.modal.sandboxes import Result, Sandbox, Sandboxes
from tests.emulators.modal.tokens import Tokens
from tests.emulators.modal.wire import Methods, Poll, Work

BUILDER = "2025.06"


class Apps:
    """The apps and secrets of the account."""

    def __init__(self, tokens: Tokens) -> None:
        self.ids: dict[str, str] = {}
        self._tokens = tokens
        self._secrets: dict[str, dict[str, str]] = {}

    def methods(self) -> Methods:
        """What the control plane answers by it."""
        return {
            "AppGetOrCreate": Work("lookup", self._app),
            "AuthTokenGet": Work("login", self._auth_token),
            "ClientHello": Work("hello", self._hello),
            "EnvironmentGetOrCreate": Work("environment", self._environment),
            "SecretGetOrCreate": Work("secret", self._secret),
        }

    def env_of(self, sources: Iterable[api.SecretSource]) -> dict[str, str]:
        """The variables of secrets; later ones win."""
        env: dict[str, str] = {}
        for source in sources:
            if source.WhichOneof("source") == "env":
                env.update(source.env.contents)
            elif source.secret_id in self._secrets:
                env.update(self._secrets[source.secret_id])
            else:
                raise GRPCError(Status.NOT_FOUND, f"Secret {source.secret_id} not found")
        return env

    async def _hello(self, _request: Message) -> Message:
        return api.ClientHelloResponse(image_builder_version=BUILDER)

    async def _auth_token(self, _request: api.AuthTokenGetRequest) -> Message:
        return api.AuthTokenGetResponse(token=self._tokens.issue("account"))

    async def _environment(self, request: api.EnvironmentGetOrCreateRequest) -> Message:
        settings = api.EnvironmentSettings(image_builder_version=BUILDER)
        name = request.deployment_name or "main"
        return api.EnvironmentGetOrCreateResponse(
            environment_id=f"en-{name}",
            metadata=api.EnvironmentMetadata(name=name, settings=settings),
        )

    async def _app(self, request: api.AppGetOrCreateRequest) -> Message:
        name = request.app_name
        if request.environment_name not in {"", "main"}:
            raise GRPCError(Status.NOT_FOUND, f"Environment {request.environment_name!r} not found")
        if name not in self.ids:
            if request.object_creation_type != api.OBJECT_CREATION_TYPE_CREATE_IF_MISSING:
                raise GRPCError(Status.NOT_FOUND, f"App {name!r} not found in environment 'main'")
            self.ids[name] = f"ap-{secrets.token_hex(11)}"
        return api.AppGetOrCreateResponse(app_id=self.ids[name])

    async def _secret(self, request: api.SecretGetOrCreateRequest) -> Message:
        secret_id = f"st-{request.deployment_name or secrets.token_hex(11)}"
        if request.env_dict:
            self._secrets[secret_id] = dict(request.env_dict)
        elif secret_id not in self._secrets:
            raise GRPCError(Status.NOT_FOUND, f"Secret {request.deployment_name!r} not found")
        return api.SecretGetOrCreateResponse(secret_id=secret_id)


class Control:
    """The control plane's side of sandboxes.

    Attributes:
        page: How many a list answers at a time.
    """

    def __init__(self, apps: Apps, sandboxes: Sandboxes, tokens: Tokens) -> None:
        self.url = ""
        self.page = 10
        self._apps, self._sandboxes, self._tokens = apps, sandboxes, tokens

    def methods(self) -> Methods:
        """What the control plane answers by it."""
        return {
            "SandboxCreateV2": Work("create", self._create),
            "SandboxGetCommandRouterAccess": Work("connect", self._access),
            "SandboxGetFromName": Work("get", self._no_version_1),
            "SandboxGetFromNameV2": Work("get", self._from_name),
            "SandboxGetTaskIdV2": Work("connect", self._task_id),
            "SandboxGetTunnelsV2": Work("expose", self._tunnels),
            "SandboxListV2": Work("list", self._list),
            "SandboxSetName": Work("name", self._set_name),
            "SandboxTagsGetV2": Work("tags", self._get_tags),
            "SandboxTagsSetV2": Work("tags", self._set_tags),
            "SandboxTerminateV2": Work("destroy", self._terminate),
            "SandboxWaitV2": Poll(lambda request: "wait" if request.timeout else "get", self._wait),
        }

    async def _create(self, request: api.SandboxCreateV2Request) -> Message:
        if request.app_id not in self._apps.ids.values():
            raise GRPCError(Status.NOT_FOUND, f"App {request.app_id!r} not found")
        if request.ephemeral_secrets.contents or request.cloud_bucket_mount_credentials:
            raise GRPCError(Status.UNIMPLEMENTED, "ephemeral_secrets are not emulated")
        check(request.definition)
        sandbox = await self._sandboxes.create(
            request.app_id,
            request.definition,
            _tags(request.tags),
            self._apps.env_of(request.secret_sources),
        )
        return api.SandboxCreateV2Response(
            sandbox_id=sandbox.id,
            task_id=sandbox.task_id,
            metadata=sandbox.metadata(),
            command_router_access=self._router(sandbox),
            sandbox_token=self._tokens.issue(sandbox.id),
            tunnels=[each for each in _tunnels(sandbox) if not each.unencrypted_port],
        )

    def _router(self, sandbox: Sandbox) -> api.CommandRouterAccess:
        return api.CommandRouterAccess(url=self.url, jwt=self._tokens.issue(sandbox.task_id))

    async def _access(self, request: api.SandboxGetCommandRouterAccessRequest) -> Message:
        if request.sandbox_id:
            sandbox = self._sandboxes.get(request.sandbox_id)
        else:
            sandbox, _ = self._sandboxes.of_task(request.task_id)
        if sandbox.result is not None:
            raise GRPCError(Status.FAILED_PRECONDITION, "Sandbox already finished")
        access = self._router(sandbox)
        return api.SandboxGetCommandRouterAccessResponse(url=access.url, jwt=access.jwt)

    async def _task_id(self, request: api.SandboxGetTaskIdRequest) -> Message:
        sandbox = self._sandboxes.get(request.sandbox_id)
        if sandbox.result is not None:
            return api.SandboxGetTaskIdResponse(task_result=sandbox.result)
        return api.SandboxGetTaskIdResponse(task_id=sandbox.task_id)

    async def _wait(self, request: api.SandboxWaitRequest) -> Message:
        sandbox = self._sandboxes.get(request.sandbox_id)
        if request.timeout and sandbox.result is None:
            ended = asyncio.ensure_future(sandbox.ended.wait())
            try:
                await asyncio.wait([ended], timeout=request.timeout)
            finally:
                ended.cancel()
        return api.SandboxWaitResponse(result=sandbox.result, metadata=sandbox.metadata())

    async def _terminate(self, request: api.SandboxTerminateRequest) -> Message:
        sandbox = self._sandboxes.get(request.sandbox_id)
        before = sandbox.result
        self._sandboxes.finish(sandbox, Result.GENERIC_STATUS_TERMINATED)
        return api.SandboxTerminateResponse(existing_result=before)

    async def _list(self, request: api.SandboxListRequest) -> Message:
        if request.app_id and request.app_id not in self._apps.ids.values():
            raise GRPCError(Status.NOT_FOUND, f"App {request.app_id!r} not found")
        wanted = _tags(request.tags)
        found = [
            sandbox
            for sandbox in self._sandboxes.all.values()
            if (request.include_finished or sandbox.result is None)
            and (not request.app_id or sandbox.app_id == request.app_id)
            and wanted.items() <= sandbox.tags.items()
            and (not request.before_timestamp or sandbox.created_at < request.before_timestamp)
        ]
        found.sort(key=lambda sandbox: sandbox.created_at, reverse=True)
        return api.SandboxListResponse(sandboxes=[each.info() for each in found[: self.page]])

    async def _from_name(self, request: api.SandboxGetFromNameRequest) -> Message:
        app_id = self._apps.ids.get(request.app_name)
        for sandbox in reversed(self._sandboxes.all.values()):
            if (
                sandbox.app_id == app_id
                and sandbox.name == request.sandbox_name
                and (request.include_terminated or sandbox.result is None)
            ):
                return api.SandboxGetFromNameResponse(
                    sandbox_id=sandbox.id, metadata=sandbox.metadata()
                )
        raise GRPCError(Status.NOT_FOUND, f"No running sandbox named {request.sandbox_name!r}")

    async def _no_version_1(self, request: api.SandboxGetFromNameRequest) -> Message:
        # The SDK asks here, too, after it has asked for version 2.
        raise GRPCError(Status.NOT_FOUND, f"No running sandbox named {request.sandbox_name!r}")

    async def _set_name(self, request: api.SandboxSetNameRequest) -> Message:
        sandbox = self._sandboxes.get(request.sandbox_id)
        if self._sandboxes.named(sandbox.app_id, request.name) not in {None, sandbox}:
            raise GRPCError(Status.ALREADY_EXISTS, f"The name {request.name!r} is taken")
        sandbox.definition.name = request.name
        return nothing()

    async def _get_tags(self, request: api.SandboxTagsGetRequest) -> Message:
        sandbox = self._sandboxes.get(request.sandbox_id)
        return api.SandboxTagsGetResponse(tags=sandbox.tag_messages())

    async def _set_tags(self, request: api.SandboxTagsSetRequest) -> Message:
        self._sandboxes.get(request.sandbox_id).tags = _tags(request.tags)
        return nothing()

    async def _tunnels(self, request: api.SandboxGetTunnelsRequest) -> Message:
        sandbox = self._sandboxes.get(request.sandbox_id)
        if sandbox.result is not None:
            raise GRPCError(Status.FAILED_PRECONDITION, "Sandbox already finished")
        success = Result(status=Result.GENERIC_STATUS_SUCCESS)
        return api.SandboxGetTunnelsResponse(result=success, tunnels=_tunnels(sandbox))


def _tags(tags: Iterable[api.SandboxTag]) -> dict[str, str]:
    read: dict[str, str] = {}
    for tag in tags:
        if not tag.tag_name or tag.tag_name in read:
            raise GRPCError(Status.INVALID_ARGUMENT, f"Invalid tag: {tag.tag_name!r}")
        read[tag.tag_name] = tag.tag_value
    return read


def _tunnels(sandbox: Sandbox) -> list[api.TunnelData]:
    if sandbox.tunnels is None:
        return []
    found: list[api.TunnelData] = []
    for spec in sandbox.definition.open_ports.ports:
        encrypted, plain = sandbox.tunnels.local_ports(spec.port)
        tunnel = api.TunnelData(host="127.0.0.1", port=encrypted, container_port=spec.port)
        if plain:
            tunnel.unencrypted_host, tunnel.unencrypted_port = "127.0.0.1", plain
        found.append(tunnel)
    return found
