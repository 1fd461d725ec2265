"""Progress of what is slow: bars on a terminal, a line for each step elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.filesize import decimal
from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from sandboxkit.cli.terminal import plain, styled
from sandboxkit.progress import Progress, listening

if TYPE_CHECKING:
    from rich.console import Console


class Steps:
    """Shows what `sandboxkit.progress` reports in its `with` block.

    A step that ends leaves a line with its time; one that only says what is being done
    now is replaced by the next.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Bars(
            TextColumn(" "),
            SpinnerColumn("dots", style="cyan"),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[amount]}", markup=False),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._open: dict[str, tuple[TaskID, float]] = {}
        self._listening = contextlib.ExitStack()

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._listening.enter_context(self._bars)
        self._listening.enter_context(listening(self))
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._listening.close()

    def __call__(self, progress: Progress) -> None:
        """Take a report; from any thread."""
        if progress.step not in self._open:
            self._begin(progress)
        task, began = self._open[progress.step]
        self._bars.update(
            task, completed=progress.done or 0, total=progress.total, amount=_amount(progress)
        )
        if progress.finished:
            self._forget_since(progress.step)
            self.done(progress.step, time.monotonic() - began)

    def _begin(self, progress: Progress) -> None:
        words = _words(progress.step)
        if not self._console.is_terminal:
            self._console.print(styled(f"  … {words}", "dim"), soft_wrap=True)
        elif progress.total is None and len(self._open) > 1:
            self._forget_since(list(self._open)[-1])  # it was only what was being done then
        task = self._bars.add_task(words, total=progress.total, amount="")
        self._open[progress.step] = task, time.monotonic()

    def _forget_since(self, step: str) -> None:
        names = list(self._open)
        for name in names[names.index(step) :]:
            self._bars.remove_task(self._open.pop(name)[0])

    @contextlib.contextmanager
    def step(self, name: str) -> Generator[None]:
        """A step of our own; what was being done in it is forgotten at its end."""
        self(Progress(name))
        yield
        if name in self._open:
            self._forget_since(name)

    def done(self, what: str, seconds: float | None = None, detail: str = "") -> None:
        """A line for what has been done, with the time it took."""
        line = styled("  ✓ ", "green").append(plain(_words(what)))
        if seconds is not None:
            line.append(f"  {seconds:.1f} s", "dim")
        if detail:
            line.append(f"  {plain(detail)}", "dim")
        self._console.print(line, soft_wrap=True)


def _words(step: str) -> str:
    step = plain(step).replace("\n", " ")
    return step[:1].upper() + step[1:]


def _amount(progress: Progress) -> str:
    if progress.done is None:
        return ""
    shown = decimal if progress.unit == "bytes" else str
    whole = "" if progress.total is None else f" of {shown(progress.total)}"
    return f"{shown(progress.done)}{whole}"
