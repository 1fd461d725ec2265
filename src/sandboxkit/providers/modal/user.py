"""Running a program as another user: Modal itself runs everything as root."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from sandboxkit.errors import ExecStartError
from sandboxkit.providers.modal.failures import PROVIDER

# Says with which program the user can be become, and the user's group.
_PROBE: Final = (
    "/bin/sh",
    "-c",
    """\
group=$(id -g "$0" 2>/dev/null) || case $0 in *[!0-9]*) echo "unknown"; exit;; *) group=$0;; esac
if setpriv --reuid="$0" --regid="$group" --clear-groups true; then echo "setpriv $group"
elif chroot --userspec="$0:$group" --skip-chdir / true; then echo "chroot $group"
else echo "cannot"; fi 2>/dev/null
""",
)


async def prefix(
    user: str, run: Callable[[tuple[str, ...]], Awaitable[str]], sandbox_id: str
) -> tuple[str, ...]:
    """What comes before the argv of a program that shall run as `user`.

    Args:
        user: Name or number.
        run: Runs a program as root, and returns its output.
        sandbox_id: For messages.

    Raises:
        ExecStartError: There is no such user (code `bad_user`), or the image has no
            program to become it with.
    """
    how, _, group = (await run((*_PROBE, user))).strip().partition(" ")
    if how == "setpriv":
        return ("setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", "--")
    if how == "chroot":
        return ("chroot", f"--userspec={user}:{group}", "--skip-chdir", "/")
    why = (
        "there is no such user in the image"
        if how == "unknown"
        else "Modal starts everything as root, and the image has neither setpriv nor GNU chroot to "
        "become another user with. Use an image with python3, or user='root'"
    )
    raise ExecStartError(
        f"Nothing can be run as the user {user!r}: {why}.",
        code="bad_user",
        op="spawn",
        provider=PROVIDER,
        sandbox_id=sandbox_id,
    )
