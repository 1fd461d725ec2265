"""The progress bar of a map: on a terminal, in Jupyter, and where there is neither."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec

import pytest

import sandboxkit as sk
from sandboxkit.many.bar import JupyterBar, in_words
from sandboxkit.testing import MemoryProvider

PROGRAM = """
import asyncio
import sandboxkit as sk
from sandboxkit.testing import MemoryProvider

async def task(sandbox, number):
    if number == 3:
        raise ValueError
    await asyncio.sleep(0.3)
    return number

async def main():
    async for one in sk.map(task, range(7), provider=MemoryProvider(), progress=True):
        print("got", one.index)

asyncio.run(main())
"""
NOTEBOOK = """
from IPython.core.displaypub import CapturingDisplayPublisher
from IPython.core.interactiveshell import InteractiveShell

shell = InteractiveShell.instance()
shell.kernel = object()  # what a notebook's shell has
shell.display_pub = CapturingDisplayPublisher()
shell.loop_runner = lambda work: __import__("asyncio").run(work)
done = shell.run_cell(open(0).read().replace("asyncio.run(main())", "await main()"))
done.raise_error()
for one in shell.display_pub.outputs:
    print(bool(one["update"]), one["data"]["text/html"], one["transient"]["display_id"])
"""


def run_on_terminal(program: str) -> str:
    """All that the terminal got."""
    ours, theirs = os.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"}
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    got = bytearray()
    try:
        while chunk := os.read(ours, 65536):
            got += chunk
    except OSError:  # the other side is closed
        pass
    os.close(ours)
    assert process.wait(60) == 0, got.decode()
    return got.decode()


def test_on_a_terminal_it_is_at_the_foot() -> None:
    shown = run_on_terminal(PROGRAM)
    assert re.search(r"\d running", shown)  # how many are shown is a matter of moments
    last = shown[shown.rindex("7/7, 1 failed") :]
    assert "got" not in last
    assert all(f"got {number}\r\n" in shown for number in range(7))


def test_elsewhere_nothing_is_shown() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM], capture_output=True, check=True, text=True
    )
    assert (len(done.stdout.splitlines()), done.stderr) == (7, "")


def test_without_rich_the_lack_is_named() -> None:
    program = f"import sys\nsys.modules['rich'] = None\n{PROGRAM}"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=False, text=True
    )
    assert 'pip install "sandboxkit[cli]"' in done.stderr


@pytest.mark.skipif(find_spec("IPython") is None, reason="needs the package ipython")
def test_in_jupyter_it_is_a_display_that_changes() -> None:
    done = subprocess.run(
        [sys.executable, "-c", NOTEBOOK],
        input=PROGRAM,
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if "<progress" in line]
    first, last = lines[0], lines[-1]
    assert first.startswith('False <progress value="0" max="7"')
    assert last.startswith('True <progress value="7" max="7"')
    assert "7/7, 1 failed" in last
    assert len({line.split()[-1] for line in lines}) == 1  # one display


def test_what_it_says() -> None:
    progress = sk.MapProgress(total=40, done=11, failed=1, running=8, retried=2, resumed=3)
    words = "12/40, 1 failed, 8 running, 2 in another sandbox, 3 from the journal"
    assert in_words(progress) == words
    assert in_words(sk.MapProgress(done=2)) == "2"
    bar = JupyterBar()
    bar.show(sk.MapProgress(done=2))
    # How many there are is not known.
    assert bar._repr_html_().startswith("<progress style")  # pyright: ignore[reportPrivateUsage]


async def test_a_bar_and_a_callback_go_together(capsys: pytest.CaptureFixture[str]) -> None:
    told: list[sk.MapProgress] = []

    async def task(sandbox: sk.Sandbox, number: int) -> int:
        return number

    mapped = sk.map(
        task, range(3), provider=MemoryProvider(), progress=True, on_progress=told.append
    )
    assert len([one async for one in mapped]) == 3
    assert told[-1].done == 3
    assert capsys.readouterr().err == ""
