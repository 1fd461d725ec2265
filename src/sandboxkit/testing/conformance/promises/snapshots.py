"""Files kept as an image, to start others from; or the refusal of it."""

from __future__ import annotations

import pytest

from sandboxkit.errors import ImageError, InvalidSpecError, UnsupportedError
from sandboxkit.testing.conformance.fixtures import Making
from sandboxkit.testing.conformance.promise import note_refusal, promise


async def _snapshots(create: Making) -> bool:
    """Whether they are claimed; where not, that they are refused."""
    if create.wired.capabilities().snapshot:
        return True
    sandbox = await create()
    with pytest.raises(UnsupportedError) as caught:
        await sandbox.snapshot()
    note_refusal(caught.value)
    assert caught.value.provider == create.wired.name
    with pytest.raises(UnsupportedError):
        await create.wired.remove_snapshot("sandboxkit-none")
    return False


@promise
async def test_a_snapshot_starts_another_sandbox(create: Making) -> None:
    """The files are in the new one, which is a sandbox of its own; the first goes on."""
    if not await _snapshots(create):
        return
    first = await create(env={"OF": "the first"}, labels={"number": "one"})
    await first.files.write("kept", "in the image")
    image = await first.snapshot()
    try:
        await first.files.write("kept", "changed later")
        second = await create(image=image, labels={"number": "two"})
        assert second.id != first.id
        assert await second.files.read_text("kept") == "in the image"
        assert (await second.sh("echo ${OF-none}")).text == "none\n", "its environment is inherited"
        found = [info async for info in create.wired.list({"number": "one", **create.label})]
        assert [info.id for info in found] == [first.id], "its labels are inherited"
        assert await first.files.read_text("kept") == "changed later"
    finally:
        await create.end()
        await create.wired.remove_snapshot(image)


@promise
async def test_a_removed_snapshot_is_gone(create: Making) -> None:
    """Nothing starts from it any more, and to remove it twice is success."""
    if not await _snapshots(create):
        return
    sandbox = await create()
    image = await sandbox.snapshot("kit-removed")
    await create.wired.remove_snapshot(image)
    await create.wired.remove_snapshot(image)
    with pytest.raises(ImageError):
        await create(image=image)


@promise
@pytest.mark.parametrize("name", ["", "a b", "../up", "x" * 64, "-x", "é"])
async def test_a_snapshot_has_a_plain_name(create: Making, name: str) -> None:
    """A name that a backend could misread is refused, before anything is made."""
    if create.wired.capabilities().snapshot:
        sandbox = await create()
        with pytest.raises(InvalidSpecError):
            await sandbox.snapshot(name)
