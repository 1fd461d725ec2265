"""One session and its store: how it begins, grows, and is taken up again."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import anyio

from sandboxkit.concurrency import cancel_and_wait
from sandboxkit.errors import SandboxError, SizeLimitError, StoreError, UnsupportedError
from sandboxkit.spec import NAME_LABEL
from sandboxkit.store.archive import Archive
from sandboxkit.store.capture import Captured, capture
from sandboxkit.store.recipe import check_place, recipe_of, spec_of, workspace_of
from sandboxkit.store.restore import keep_manifest, load_manifest, restore
from sandboxkit.store.store import Store
from sandboxkit.store.workspace import Workspace

if TYPE_CHECKING:
    from sandboxkit.gateway.secrets import Secret
    from sandboxkit.sandbox import Sandbox
    from sandboxkit.spec import SandboxSpec
    from sandboxkit.store.lines import Writer
    from sandboxkit.store.manifest import Tree
    from sandboxkit.store.sessions import SessionRecord

log = logging.getLogger(__name__)

LAST_SAVE_S: Final = 110.0
"""Seconds for the save of a session that is closed."""

_AGAIN_S: Final = (1.0, 5.0, 30.0)  # after a save that failed


class Keeping:
    """Keeps one session.

    Args:
        store: Where; or its URL, and then it is closed with the session.
        session_id: The session.
        workspace: Which files; None is what was stored, or the default.
        resume: Whether the session is there already.
        fork: Whether a second one is made of it.

    Attributes:
        id: The session's id: of a fork, known after `open`.
        conversation: The id by which the agent knows the conversation.
        agent: The name of the agent that the session had; None for a new one.
        backend: Likewise of the backend.
        failure: Why the last save was not done; None where it was.
        told: Called after each save: why it failed, or how many files and bytes there are.
    """

    def __init__(
        self,
        store: Store | str,
        session_id: str,
        *,
        workspace: Workspace | None = None,
        resume: bool = False,
        fork: bool = False,
    ) -> None:
        self._store = Store(store) if isinstance(store, str) else store
        self._owns_store = isinstance(store, str)
        self.id = self.conversation = session_id
        self._rules = workspace or Workspace()
        self._given_rules = workspace
        self._resume, self._fork = resume, fork
        self.agent: str | None = None
        self.backend: str | None = None
        self.failure: SandboxError | None = None
        self._record: SessionRecord | None = None
        self._writer: Writer | None = None
        self._archive: Archive | None = None
        self._tree: Tree | None = None
        self._sandbox: Sandbox | None = None
        self._captured = Captured()
        self._saved: Captured | None = None  # what the newest snapshot is of
        self._live = self._busy = self._due = False
        self._rests = self._closed = False
        self._one = anyio.Lock()
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.told: Callable[[SandboxError | None, int, int], object] = _untold

    # the start

    async def open(self) -> None:
        """Find the session that is to be taken up; nothing is changed, except for a fork.

        Raises:
            StoreError: There is no such session, or it is damaged.
        """
        if not self._resume:
            return
        record = await self._store.get(self.id)
        if self._fork:
            self.id = await self._store.fork(self.id)
            record = await self._store.get(self.id)
        self._record = record
        self.agent, self.backend, self.conversation = (
            record.agent,
            record.backend,
            record.conversation,
        )
        if self._given_rules is None:
            self._rules = workspace_of(record.spec)

    def spec(
        self,
        given: SandboxSpec | None,
        fields: Mapping[str, Any],
        *,
        secrets: Sequence[Secret],
        backend: str | None,
    ) -> SandboxSpec:
        """See `spec_of`; for a session that is taken up."""
        if self._record is None:
            raise StoreError("The session is new, and has no spec yet.")
        return spec_of(self._record.spec, given, fields, secrets=secrets, backend=backend)

    async def take(
        self, agent: str, backend: str, spec: SandboxSpec, secrets: Sequence[Secret]
    ) -> Archive:
        """Get the right to write the session; where its conversation is.

        Of a session that is taken up, the list of files is read and checked as well: what is
        damaged is found before anything is created.

        Raises:
            StoreError: The id is taken; or the session is damaged.
        """
        if self._record is None:
            recipe = recipe_of(spec, None, secrets, self._rules)
            self._writer = await self._store.sessions.begin(
                self.id, agent=agent, backend=backend, spec=recipe
            )
        else:
            self._writer, self._record = await self._store.sessions.take_over(self.id)
            if (snapshot := self._record.snapshot) is not None:
                blobs = self._store.blobs
                self._tree = await load_manifest(blobs, snapshot.manifest, self._rules)
        self._archive = Archive(self._store.lines(self._writer))
        return self._archive

    async def begin(self, sandbox: Sandbox, spec: SandboxSpec, secrets: Sequence[Secret]) -> None:
        """Fill a new sandbox with the session's files.

        Raises:
            UnsupportedError: It is not the place that the session had.
            StoreError: A piece is missing or damaged.
            SandboxError: The sandbox failed.
        """
        if self._writer is None:
            raise StoreError("The session was not opened.")
        if self._record is not None:
            check_place(self._record.spec, sandbox)
        if self._tree is not None:
            await restore(sandbox, self._store.blobs, self._tree, self._rules)
            self._captured = self._saved = Captured(self._tree)
        recipe = recipe_of(spec, sandbox, secrets, self._rules)
        before = None if self._record is None else self._record.spec.get("name")
        if name := sandbox.info.labels.get(NAME_LABEL, before):
            recipe["name"] = name
        await self._store.sessions.update(self._writer, spec=recipe, backend=sandbox.info.provider)
        self._sandbox = sandbox

    def started(self) -> None:
        """From now on the session is saved, or again after `rest`."""
        self._live, self._rests = True, False
        self._task = asyncio.ensure_future(self._follow())

    def goes_on_in(self, sandbox: Sandbox) -> None:
        """The session is in this sandbox from now on, which has all its files; see `take`."""
        self._sandbox = sandbox

    # as it grows

    @property
    def unsaved(self) -> SandboxError | None:
        """Why something that was said is not in the store; None where all is."""
        return None if self._archive is None else self._archive.failure

    async def has_conversation(self) -> bool:
        """Whether anything was ever said in it."""
        if self._writer is None:
            return False
        await self._settled()
        return bool(await self._store.lines(self._writer).keys())

    async def turning(self) -> None:
        """A turn begins: it is saved from time to time; or it waits for the save before it."""
        if self._rules.every_s is None:
            await self._between()
        self._busy = True
        self._wanted.set()

    async def _between(self) -> None:
        """The save after the last turn, to its end, before anything changes again."""
        due, self._due = self._due, False
        if not due:
            async with self._one:
                return
        try:
            await self.save()
        except SandboxError as error:
            log.warning("The session %s could not be saved: %s", self.id, error)

    def turned(self, conversation: str | None) -> None:
        """A turn has ended: it is saved soon."""
        self._busy, self._due = False, True
        if conversation is not None and _is_uuid(conversation):
            self.conversation = conversation
        self._wanted.set()

    async def _follow(self) -> None:
        failures = 0
        while True:
            with anyio.move_on_after(self._pause(failures)) as waited:
                await self._wanted.wait()
            self._wanted.clear()
            if not (self._due or waited.cancelled_caught):
                continue
            self._due = False
            try:
                await self.save()
                failures = 0
            except SandboxError as error:
                log.warning("The session %s could not be saved: %s", self.id, error)
                failures += 1
            except Exception:
                log.exception("The session %s could not be saved", self.id)
                failures += 1

    def _pause(self, failures: int) -> float:
        """Seconds until the next save, if no turn ends before.

        Nothing is done where nothing happens: that would be a sandbox which is never idle.
        """
        if isinstance(self.failure, StoreError) and self.failure.code == "taken_over":
            return math.inf
        if self._busy and self._rules.every_s is None:
            return math.inf
        if failures and not isinstance(self.failure, SizeLimitError | UnsupportedError):
            return _AGAIN_S[min(failures, len(_AGAIN_S)) - 1]
        return self._rules.every_s if self._busy and self._rules.every_s is not None else math.inf

    async def save(self) -> None:
        """Save all that there is now: the conversation, and what has changed of the files.

        Raises:
            StoreError: The store failed.
            SizeLimitError: The workspace is more than it may be.
            SandboxError: The sandbox failed.
        """
        async with self._one:
            try:
                await self._save()
            except SandboxError as error:
                self.failure = error
                self.told(error, 0, 0)
                raise
            self.failure = None
            tree = self._captured.tree
            self.told(None, len(tree.entries), tree.bytes)

    async def _settled(self) -> None:
        if self._archive is not None:
            await self._archive.settle()

    async def _save(self) -> None:
        if self._writer is None or self._sandbox is None:
            raise StoreError("The session was not opened.")
        await self._settled()
        blobs, sessions = self._store.blobs, self._store.sessions
        found = await capture(self._sandbox, blobs, self._captured, self._rules)
        if found.unread and found.unread != self._captured.unread:
            log.warning("Not saved, since it cannot be read: %s", ", ".join(found.unread))
        self._captured = found
        if self._saved is None or found.tree.entries != self._saved.tree.entries:
            manifest = await keep_manifest(blobs, found.tree)
            files, size = len(found.tree.entries), found.tree.bytes
            await sessions.add_snapshot(self._writer, manifest, files=files, size=size)
            self._saved = found
        await sessions.update(self._writer, conversation=self.conversation)

    # the end

    async def end(self) -> SandboxError | None:
        """Save for the last time; why that could not be done. The agent has ended."""
        await cancel_and_wait(self._task)
        if self._writer is None or not self._live or self._rests:
            return None
        try:
            with anyio.fail_after(LAST_SAVE_S):
                await self.save()
        except TimeoutError as error:
            if isinstance(error, SandboxError):
                return error
            return StoreError(f"The last save took more than {LAST_SAVE_S:g} s.")
        except SandboxError as error:
            return error
        return None

    async def rest(self) -> None:
        """Save all, and then nothing more until `started`: there is nothing new.

        Raises:
            SandboxError: It could not be saved, and is saved on.
        """
        failure = await self.end()
        if failure is not None:
            self.started()
            raise failure
        self._rests = True

    async def close(self, failure: SandboxError | None) -> None:
        """Write down how it ended, and let go of the store. Idempotent, never raises."""
        if self._closed:
            return
        self._closed = True
        try:
            if self._writer is not None:
                sessions = self._store.sessions
                if self._live or (self._resume and not self._fork):
                    state = "saved" if failure is None else "failed"
                    await sessions.update(self._writer, state=state)
                else:  # it has never run
                    await sessions.delete(self.id)
        except StoreError as error:
            log.warning("The end of the session %s is not in the store: %s", self.id, error)
        finally:
            if self._owns_store:
                await self._store.aclose()


def _untold(error: SandboxError | None, files: int, size: int) -> None:
    """Where nobody listens."""


def _is_uuid(value: str) -> bool:
    try:
        return str(UUID(value)) == value
    except ValueError:
        return False
