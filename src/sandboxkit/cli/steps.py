"""Progress of what is slow: bars on a terminal, a line for each step elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

from rich.filesize import decimal
from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from sandboxkit.cli.terminal import plain, styled
from sandboxkit.progress import Progress, listening

if TYPE_CHECKING:
    from rich.console import Console


class _Open(NamedTuple):
    """A step that has not ended.

    Attributes:
        bar: Its line on a terminal.
        began: When, on the monotonic clock.
        stays: Whether it is more than a word on what is being done now.
    """

    bar: TaskID
    began: float
    stays: bool


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
        self._open: dict[str, _Open] = {}
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
            self._begin(progress, stays=progress.total is not None)
        step = self._open[progress.step]
        self._bars.update(
            step.bar, completed=progress.done or 0, total=progress.total, amount=_amount(progress)
        )
        if progress.finished:
            self._forget_since(progress.step)
            self.done(progress.step, time.monotonic() - step.began)

    def _begin(self, progress: Progress, *, stays: bool) -> None:
        words = _words(progress.step)
        if not self._console.is_terminal:
            self._console.print(styled(f"  … {words}", "dim"), soft_wrap=True)
        else:
            passing = [name for name, step in self._open.items() if not step.stays]
            if not stays and len(passing) > 1:  # the first is the whole; the last has ended
                self._bars.remove_task(self._open.pop(passing[-1]).bar)
        bar = self._bars.add_task(words, total=progress.total, amount="")
        self._open[progress.step] = _Open(bar, time.monotonic(), stays)

    def _forget_since(self, step: str) -> None:
        names = list(self._open)
        for name in names[names.index(step) :]:
            self._bars.remove_task(self._open.pop(name).bar)
        self._bars.refresh()

    @contextlib.contextmanager
    def step(self, name: str) -> Generator[None]:
        """A step of our own; what was being done in it is forgotten at its end."""
        self._begin(Progress(name), stays=True)
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
