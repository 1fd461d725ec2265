"""The five verbs on Modal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, ClassVar, Final

from sandboxkit.errors import SandboxError, SandboxNotFoundError, UnsupportedError
from sandboxkit.providers.base import Capabilities, Credentials, SandboxInfo, SandboxProvider
from sandboxkit.providers.modal.account import Account, Opened
from sandboxkit.providers.modal.failures import PROVIDER, ask, is_gone, is_refused
from sandboxkit.providers.modal.handle import ModalHandle
from sandboxkit.providers.modal.images import IMAGE_ID, Images
from sandboxkit.providers.modal.plan import ENTRY, GUEST_USER, Plan, plan
from sandboxkit.providers.remembered import EFFECTIVE_LABEL, recall, remember
from sandboxkit.spec import CREATED_LABEL, OWNER_LABEL, SandboxSpec

if TYPE_CHECKING:
    import modal

_CREATE_S: Final = 90.0
_ASK_S: Final = 30.0
_LIST_S: Final = 60.0
_AT_ONCE: Final = 10


class ModalProvider(SandboxProvider):
    """Sandboxes of a Modal workspace.

    Args:
        app: The app that the sandboxes belong to; made if it is missing.
        token_id: The token to sign in with. Without it, the SDK's configuration says:
            `MODAL_TOKEN_ID` and `MODAL_TOKEN_SECRET`, or a profile of `~/.modal.toml`.
        token_secret: Its secret.
        environment: The environment of the workspace; None is `MODAL_ENVIRONMENT`, or
            the workspace's default.
        creates_per_s: How many sandboxes a second the plan lets be created. The default
            is where Modal advises its newer back end (modal.com/docs/guide/sandboxes).
        concurrent: How many the plan lets live at once; None is no limit that is known.
    """

    name: ClassVar[str] = PROVIDER
    interface_version: ClassVar[int] = 1
    packages: ClassVar[tuple[str, ...]] = ("modal",)

    def __init__(
        self,
        *,
        app: str = "sandboxkit",
        token_id: str | None = None,
        token_secret: str | None = None,
        environment: str | None = None,
        creates_per_s: float | None = 20.0,
        concurrent: int | None = None,
    ) -> None:
        self._account = Account(app, token_id, token_secret, environment)
        self._images = Images()
        self._creates_per_s = creates_per_s
        self._concurrent = concurrent

    def capabilities(self) -> Capabilities:
        """What Modal can do. CPU and memory are hard limits; disk and processes have none."""
        return Capabilities(
            isolation="gvisor",
            limits=frozenset({"cpu", "memory_gib"}),
            network=frozenset({"none", "open"}),
            images=True,
            lifetime=True,
            artifacts=True,
            guest_user=GUEST_USER,
            snapshot=True,
            expose=True,
            creates_per_s=self._creates_per_s,
            concurrent=self._concurrent,
        )

    def credentials(self) -> Credentials:
        """The token that is given or configured; see `SandboxProvider.credentials`."""
        return self._account.credentials()

    def account(self) -> str:
        """A digest of the token's name and the service's address."""
        return self._account.digest()

    async def prepare(self, spec: SandboxSpec) -> None:
        """Build the image with the artifacts, where that is to do."""
        plan(spec)
        await self._images.get(spec, await self._account.open())

    async def create(self, spec: SandboxSpec) -> ModalHandle:
        """Create a sandbox, named by the spec's key; see `SandboxProvider.create`."""
        planned = plan(spec)
        opened = await self._account.open()
        image = await self._images.get(spec, opened)
        try:
            sandbox = await ask(
                "create", _create(opened, image, spec, planned), deadline_s=_CREATE_S
            )
        except SandboxNotFoundError:
            # The app or the image was removed since they were looked up.
            if not self._images.forget(image):
                raise
            await self._account.open(afresh=True)
            return await self.create(spec)
        info = _describe(sandbox.object_id, _labels(spec, planned))
        return ModalHandle(sandbox, opened.client, info)

    async def attach(self, sandbox_id: str) -> ModalHandle:
        """Take up a running sandbox of ours; see `SandboxProvider.attach`."""
        opened = await self._account.open()
        try:
            sandbox, tags = await ask(
                "attach",
                _look_up(opened.client, sandbox_id),
                deadline_s=_ASK_S,
                sandbox_id=sandbox_id,
            )
        except SandboxError as error:
            if is_gone(error) or is_refused(error):
                raise _not_found(sandbox_id, "There is no sandbox of this id") from error
            raise
        if sandbox.returncode is not None:
            raise _not_found(sandbox_id, "This sandbox has ended")
        if OWNER_LABEL not in tags:
            raise _not_found(sandbox_id, "This sandbox was not made by sandboxkit")
        return ModalHandle(sandbox, opened.client, _describe(sandbox_id, tags))

    async def list(self, labels: Mapping[str, str]) -> AsyncIterator[SandboxInfo]:
        """The running sandboxes of the app with these labels; see `SandboxProvider.list`."""
        opened = await self._account.open()
        found = await ask("list", _running(opened, labels), deadline_s=_LIST_S)
        for at in range(0, len(found), _AT_ONCE):
            batch = found[at : at + _AT_ONCE]
            asking = asyncio.gather(*(_tags(sandbox) for sandbox in batch))
            for sandbox, tags in zip(batch, await asking, strict=True):
                if OWNER_LABEL in tags:
                    yield _describe(sandbox.object_id, tags)

    async def remove_snapshot(self, image: str) -> None:
        """Delete an image of Modal's; the layers that it was made of stay."""
        if not image.startswith(IMAGE_ID):
            raise UnsupportedError(
                f"{image!r} is not a snapshot at Modal: those are called {IMAGE_ID}...",
                op="remove_snapshot",
                provider=PROVIDER,
            )
        opened = await self._account.open()
        from modal.experimental import image_delete

        deleting = image_delete.aio(image, client=opened.client)  # pyright: ignore[reportFunctionMemberAccess]
        try:
            await ask("remove_snapshot", deleting, deadline_s=_ASK_S)
        except SandboxNotFoundError:
            return

    async def aclose(self) -> None:
        """Close the connection to Modal."""
        self._images.clear()
        await self._account.aclose()


async def _create(
    opened: Opened, image: modal.Image, spec: SandboxSpec, planned: Plan
) -> modal.Sandbox:
    import modal
    from modal.exception import AlreadyExistsError

    try:
        return await modal.Sandbox.create.aio(  # pyright: ignore[reportUnknownMemberType]
            *ENTRY,
            app=opened.app,
            client=opened.client,
            image=image,
            name=spec.key,
            tags=_labels(spec, planned),
            timeout=planned.timeout,
            cpu=planned.amount.cpu,
            memory=planned.amount.memory,
            block_network=planned.block_network,
            encrypted_ports=planned.ports,
        )
    except AlreadyExistsError:
        # The name is of this create alone: the SDK has asked again after a lost answer.
        return await modal.Sandbox.from_name.aio(opened.app_name, spec.key, client=opened.client)


def _labels(spec: SandboxSpec, planned: Plan) -> dict[str, str]:
    return {**spec.labels, EFFECTIVE_LABEL: remember(planned.effective, planned.differences)}


async def _look_up(client: modal.Client, sandbox_id: str) -> tuple[modal.Sandbox, dict[str, str]]:
    import modal

    sandbox = await modal.Sandbox.from_id.aio(sandbox_id, client=client)
    tags = await sandbox.get_tags.aio() if sandbox.returncode is None else {}
    return sandbox, tags


async def _running(opened: Opened, labels: Mapping[str, str]) -> list[modal.Sandbox]:
    import modal

    listing = modal.Sandbox.list.aio(
        app_id=opened.app.app_id, tags=dict(labels), client=opened.client
    )
    return [sandbox async for sandbox in listing]


async def _tags(sandbox: modal.Sandbox) -> dict[str, str]:
    """The tags of a sandbox; none if it has ended since it was listed."""
    try:
        return await ask("list", sandbox.get_tags.aio(), deadline_s=_ASK_S)
    except SandboxNotFoundError:
        return {}


def _describe(sandbox_id: str, tags: Mapping[str, str]) -> SandboxInfo:
    labels, effective, differences = recall(tags)
    created = labels.get(CREATED_LABEL)
    return SandboxInfo(
        id=sandbox_id,
        provider=PROVIDER,
        state="running",
        labels=labels,
        created_at=datetime.fromisoformat(created) if created else None,
        effective=effective,
        differences=differences,
    )


def _not_found(sandbox_id: str, what: str) -> SandboxNotFoundError:
    return SandboxNotFoundError(
        f"{what}: {sandbox_id}.",
        op="attach",
        provider=PROVIDER,
        sandbox_id=sandbox_id,
        retryable=False,
    )
