"""Taking up a CLI that another host has left, or has died with."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Final

from sandboxkit.agents.claude_code.ledger import Ledger
from sandboxkit.agents.claude_code.note import Note, read_note
from sandboxkit.errors import AgentError, ExecStartError, ProcessHeldError

if TYPE_CHECKING:
    from sandboxkit.channel.process import Process
    from sandboxkit.sandbox import Sandbox

log = logging.getLogger(__name__)

_GRACE_S: Final = 5.0


async def find_cli(sandbox: Sandbox, session_id: str) -> tuple[Process, Note] | None:
    """The CLI that has this conversation, taken up; None where there is none to go on with.

    One that has ended is taken up where its turn was not followed to its end: what it has said
    is still there. What cannot be gone on with is ended.

    Raises:
        AgentError: A host that lives has it; code `held`.
        SandboxError: The sandbox failed.
    """
    for found in await sandbox.processes():
        note = read_note(found.note)
        if note is None or note.session != session_id:
            continue
        try:
            process = await sandbox.process(found.id, acknowledge="by_hand")
        except ProcessHeldError as error:
            raise AgentError(
                f"The agent of the session {session_id} is in use: {error.message}. One host at "
                "a time can have it: end that one, or let it detach() first.",
                code="held",
            ) from error
        except ExecStartError:  # another host was faster, or it is forgotten
            continue
        note = read_note(process.note)  # it may have changed since
        if note is not None and note.session == session_id:
            if note.turn is not None and process.stdin.offset < note.turn.sent:
                note = note.model_copy(update={"turn": None})  # the prompt was never sent
            if _can_go_on(process, note):
                return process, note
        await end_cli(process)
    return None


def _can_go_on(process: Process, note: Note) -> bool:
    if not process.input_is_whole:
        log.info("A host died in the middle of a message to the agent, which is started anew.")
        return False
    return process.exit_code is None or Ledger(process, note).prompt_id is not None


async def end_cli(process: Process) -> None:
    """End it, and what it has started."""
    with contextlib.suppress(Exception):
        await process.kill(_GRACE_S)
    await process.aclose()
