"""The editor of the messages agent, in a real sandbox."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from sandboxkit.agents.messages.tools.editor import FILE_LIMIT, VIEW_LIMIT, Editor
from sandboxkit.agents.messages.tools.tool import ToolFailed
from sandboxkit.sandbox import Sandbox


@pytest.fixture
async def sandbox(engine: str) -> AsyncIterator[Sandbox]:
    async with Sandbox.create("docker") as sandbox:
        yield sandbox


@pytest.fixture
def editor(sandbox: Sandbox) -> Editor:
    return Editor(sandbox, "claude-sonnet-5-5")


async def edit(editor: Editor, command: str, path: str, **arguments: Any) -> str:
    output = await editor.run({"command": command, "path": path, **arguments})
    assert not output.is_error
    return output.text


async def test_create_and_view(editor: Editor, sandbox: Sandbox) -> None:
    await edit(editor, "create", "new/deep/a.txt", file_text="one\r\ntwo\n\n")
    assert await sandbox.files.read("new/deep/a.txt") == b"one\r\ntwo\n\n"
    assert await edit(editor, "view", "new/deep/a.txt") == "     1\tone\r\n     2\ttwo\n     3\t"
    await edit(editor, "create", "new/deep/a.txt", file_text="a\nb\nc\nd")
    assert await edit(editor, "view", "/work/new/deep/a.txt", view_range=[2, 3]) == (
        "     2\tb\n     3\tc"
    )
    assert await edit(editor, "view", "new/deep/a.txt", view_range=[4, -1]) == "     4\td"
    assert await edit(editor, "view", "new/deep/a.txt", view_range=[3, 99]) == (
        "     3\tc\n     4\td"
    )
    await edit(editor, "create", "empty", file_text="")
    assert await edit(editor, "view", "empty") == "     1\t"


async def test_a_directory(editor: Editor, sandbox: Sandbox) -> None:
    await sandbox.sh(
        "mkdir -p d/sub/deeper .hid; touch d/x d/.y d/sub/z d/sub/deeper/no; ln -s x d/l"
    )
    assert (await edit(editor, "view", "d/")).splitlines()[1:] == [
        "d/l",
        "d/sub/",
        "d/sub/deeper",
        "d/sub/z",
        "d/x",
    ]
    await sandbox.sh("mkdir many; cd many; seq 1500 | xargs touch; mkdir aa; chmod 0 aa")
    lines = (await edit(editor, "view", "/work/many")).splitlines()
    assert len(lines) == 1002
    assert "only 1000 are shown" in lines[-1]
    with pytest.raises(ToolFailed, match="`view_range` is for files"):
        await edit(editor, "view", "d", view_range=[1, 2])


async def test_str_replace(editor: Editor, sandbox: Sandbox) -> None:
    await sandbox.files.write("a.sh", "#!/bin/sh\r\nx\n  y\nz\nz\n", mode=0o755)
    text = await edit(editor, "str_replace", "a.sh", old_str="x\n  y", new_str="p\nq\nr")
    assert text.splitlines()[0] == "a.sh has been edited:"
    assert text.partition("\n")[2] == (
        "     1\t#!/bin/sh\r\n     2\tp\n     3\tq\n     4\tr\n     5\tz\n     6\tz\n     7\t"
    )
    assert await sandbox.files.read("a.sh") == b"#!/bin/sh\r\np\nq\nr\nz\nz\n"
    assert (await sandbox.files.stat("a.sh")).mode & 0o777 == 0o755
    await edit(editor, "str_replace", "a.sh", old_str="q\n")
    assert await sandbox.files.read("a.sh") == b"#!/bin/sh\r\np\nr\nz\nz\n"
    for old, message in (
        ("z\n", "is 2 times"),
        ("q", "is not in a.sh"),
        ("", "`old_str` is empty"),
    ):
        with pytest.raises(ToolFailed, match=message):
            await edit(editor, "str_replace", "a.sh", old_str=old, new_str="!")
    assert await sandbox.files.read("a.sh") == b"#!/bin/sh\r\np\nr\nz\nz\n"


async def test_insert(editor: Editor, sandbox: Sandbox) -> None:
    await sandbox.files.write("a", "one\ntwo")
    assert await edit(editor, "insert", "a", insert_line=0, insert_text="zero") == (
        "a has been edited:\n     1\tzero\n     2\tone\n     3\ttwo"
    )
    await edit(editor, "insert", "a", insert_line=3, insert_text="three\n")
    await edit(editor, "insert", "a", insert_line=1, new_str="half\n")  # the older name
    assert await sandbox.files.read("a") == b"zero\nhalf\none\ntwo\nthree\n"
    await edit(editor, "insert", "a", insert_line=5, insert_text="\u2028 x\x0b\n")
    assert await edit(editor, "view", "a", view_range=[6, 6]) == "     6\t\u2028 x\x0b"
    for line in (-1, 7, "1", None, True):
        with pytest.raises(ToolFailed, match="`insert_line` must be 0 to 6"):
            await edit(editor, "insert", "a", insert_line=line, insert_text="x")


async def test_what_the_editor_cannot(editor: Editor, sandbox: Sandbox) -> None:
    await sandbox.files.write("binary", b"\x00\xff\xfe")
    await sandbox.sh(f"head -c {FILE_LIMIT + 1} /dev/zero > large; mkfifo pipe; ln -s loop loop")
    for command, path, arguments, message in (
        ("view", "binary", {}, "not UTF-8 text"),
        ("view", "large", {}, f"more than {FILE_LIMIT} bytes"),
        ("view", "missing", {}, "missing"),
        ("view", "", {}, "`path` is missing"),
        ("view", "loop", {}, "loop"),
        ("view", "pipe", {}, "pipe"),
        ("create", "/etc/passwd", {"file_text": "x"}, "/etc/passwd"),
        ("create", "x", {}, "`file_text` is missing"),
        ("create", "x", {"file_text": "\ud800"}, "surrogate"),
        ("undo_edit", "x", {}, "There is no command 'undo_edit'; there are view, create"),
        ("view", "binary\0", {}, "NUL|null"),
    ):
        with pytest.raises(ToolFailed, match=message):
            await edit(editor, command, path, **arguments)
    await sandbox.files.write("three", "a\nb\nc\n")
    for lines in ([0, 1], [2, 1], [4, 5], [1], "12", [1, 2, 3], [1.5, 2]):
        with pytest.raises(ToolFailed, match="the file has 3 lines"):
            await edit(editor, "view", "three", view_range=lines)


async def test_a_long_file_keeps_its_ends(editor: Editor, sandbox: Sandbox) -> None:
    await sandbox.sh("seq 1 100000 > long")
    text = await edit(editor, "view", "long")
    assert text.startswith("     1\t1\n")
    assert text.endswith("\t100000")
    assert "characters left out; use view_range" in text
    assert len(text) < VIEW_LIMIT + 100
