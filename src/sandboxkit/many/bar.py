"""The ready-made progress bar of a `map`: on a terminal by rich, in Jupyter by its own display."""

from __future__ import annotations

import sys
import time
from importlib import import_module
from importlib.util import find_spec
from types import TracebackType
from typing import Final, Protocol, Self

from sandboxkit.many.outcome import MapProgress

_EVERY_S: Final = 0.2  # between two drawings in Jupyter
_PER_S: Final = 5.0  # drawings on a terminal


class Bar:
    """Shows how far a map is, in its `with` block. This one shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass

    def show(self, progress: MapProgress) -> None:
        """Draw it."""


def make_bar() -> Bar:
    """The one that fits: a display in Jupyter, a bar where stderr is a terminal, else none.

    Raises:
        ImportError: It is not Jupyter, and there is no rich.
    """
    if in_jupyter():
        return JupyterBar()
    if find_spec("rich") is None:
        raise ImportError(
            'progress=True needs the package rich: pip install "sandboxkit[cli]"; '
            "on_progress= needs nothing"
        )
    return TerminalBar() if sys.stderr.isatty() else Bar()


def in_jupyter() -> bool:
    """Whether this is a notebook's kernel."""
    module = sys.modules.get("IPython")
    shell = None if module is None else module.get_ipython()
    return getattr(shell, "kernel", None) is not None


def in_words(progress: MapProgress) -> str:
    """How far it is, such as `12/40, 1 failed, 8 running`."""
    ended = progress.done + progress.failed
    parts = [f"{ended}/{progress.total}" if progress.total is not None else f"{ended}"]
    for count, word in (
        (progress.failed, "failed"),
        (progress.running, "running"),
        (progress.retried, "in another sandbox"),
        (progress.resumed, "from the journal"),
    ):
        if count:
            parts.append(f"{count} {word}")
    return ", ".join(parts)


class TerminalBar(Bar):
    """A line at the foot of the terminal, on stderr; what is printed meanwhile goes above it."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        self._drawn = Progress(
            SpinnerColumn("dots"),
            BarColumn(bar_width=32),
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            refresh_per_second=_PER_S,
            redirect_stdout=sys.stdout.isatty(),  # else it is the program's own, as it is
        )
        self._task = self._drawn.add_task("", total=None)

    def __enter__(self) -> Self:
        self._drawn.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._drawn.stop()

    def show(self, progress: MapProgress) -> None:
        """See `Bar.show`."""
        self._drawn.update(
            self._task,
            completed=progress.done + progress.failed,
            total=progress.total,
            description=in_words(progress),
        )


class _Handle(Protocol):
    """What `IPython.display.display` gives for something that changes."""

    def update(self, obj: object, /) -> None: ...


class JupyterBar(Bar):
    """A bar below the cell; it needs no widgets, and stays in the saved notebook."""

    def __init__(self) -> None:
        self._now = MapProgress()
        self._handle: _Handle | None = None
        self._drawn = 0.0

    def __repr__(self) -> str:
        return in_words(self._now)

    def _repr_html_(self) -> str:
        now = self._now
        full = "" if now.total is None else f' value="{now.done + now.failed}" max="{now.total}"'
        return f'<progress{full} style="width: 20em"></progress> {in_words(now)}'

    def __enter__(self) -> Self:
        display = import_module("IPython.display").display  # it is there: this is Jupyter
        self._handle = display(self, display_id=True)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._draw()

    def show(self, progress: MapProgress) -> None:
        """See `Bar.show`; not more often than it can be seen."""
        self._now = progress
        if time.monotonic() - self._drawn >= _EVERY_S:
            self._draw()

    def _draw(self) -> None:
        self._drawn = time.monotonic()
        if self._handle is not None:
            self._handle.update(self)
