"""Show the progress of long work on standard error: a bar on a terminal or in a notebook, else lines.

rich is imported only inside functions: planning imports this module, and importing rich takes longer than planning.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from dgbench.core.wording import format_duration, format_scalars, printable

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn, TaskID

INTERVAL = 60.0
"""Shortest time between two plain lines, in seconds: logs of a cluster's jobs are read later, and long."""


class ReportProgress(Protocol):
    """Callback that takes reports of progress from downloads and cache builders."""

    def __call__(self, what: str, done: int, total: int) -> None:
        """Report that `done` of `total` bytes or items are finished.

        Args:
            what: The items or the file; each has a bar to itself.
            done: Number finished so far.
            total: Number in all; 0 if unknown.
        """
        ...


class TrainingDisplay:
    """Display of one training while it runs. This base class shows nothing."""

    def stepped(self, done: int, steps: int) -> None:
        """Show that `done` of `steps` steps have been made."""

    def evaluated(self, scores: Mapping[str, float]) -> None:
        """Show the result of an evaluation.

        Args:
            scores: Name -> value: means of the logged scalars since the evaluation before, and the validation score.
        """


NO_DISPLAY = TrainingDisplay()
"""The display of runs that are executed with others: their logs and the sweep's bar show how far they are."""


def print_line(line: str) -> None:
    """Print a line on standard error, above the bar if there is one, with unprintable characters escaped."""
    print(printable(line), file=sys.stderr, flush=True)


@contextmanager
def shown_progress(about: str = "") -> Iterator[ReportProgress]:
    """Yield a callback that shows the progress reported to it, until the block ends.

    Args:
        about: Text that each bar and line begins with.
    """
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn

    words = TextColumn("{task.description}", markup=False)  # markup would read [x] as a style and :cat: as a picture
    columns = (words, BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[count]}"), TimeRemainingColumn())
    with _shown_bars(*columns) as bar:
        if bar:
            yield _bars(about, bar)
            return
    lines = _Lines(about)
    try:
        yield lines
    finally:
        lines.end()


@contextmanager
def shown_training() -> Iterator[TrainingDisplay]:
    """Yield a display of trainings, one after another: a bar where there can be one, nothing elsewhere.

    On a terminal it stays below all that is printed meanwhile, and goes when the block ends.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    words = TextColumn("{task.description}", markup=False)
    scores = TextColumn("{task.fields[scores]}", markup=False)
    times = (TimeElapsedColumn(), TextColumn("ETA"), TimeRemainingColumn())
    with _shown_bars(words, MofNCompleteColumn(), BarColumn(), *times, scores) as bar:
        yield _TrainingBar(bar) if bar else NO_DISPLAY


def in_notebook() -> bool:
    """Return whether output goes to the cells of a notebook."""
    from rich.console import Console

    return Console(stderr=True).is_jupyter


@contextmanager
def _shown_bars(*columns: ProgressColumn) -> Iterator[Progress | None]:
    """Yield a group of bars with these columns, on a terminal or below a notebook's cell; None where neither is."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    if console.is_terminal:
        with Progress(*columns, console=console, transient=True) as bar:
            yield bar
    elif console.is_jupyter:
        with _below_cell(Progress(*columns, console=console, auto_refresh=False)) as bar:
            yield bar
    else:
        yield None


@contextmanager
def _below_cell(bar: Progress) -> Iterator[Progress]:
    """Show bars below the notebook's cell that runs, drawn anew as they move but 4 times a second at most.

    Not by rich's own live display, which needs widgets, a thread, and leaves nothing in the stored notebook.
    """
    from IPython.display import display  # there is one wherever rich finds a notebook

    handle = display(bar, display_id=True)  # type: ignore[no-untyped-call]
    update, drawn = bar.update, 0.0

    def move(*words: Any, **fields: Any) -> None:
        nonlocal drawn
        update(*words, **fields)
        if time.monotonic() - drawn > 0.25:
            drawn = time.monotonic()
            handle.update(bar)

    vars(bar)["update"] = move
    try:
        yield bar
    finally:
        handle.update(bar)


class _TrainingBar(TrainingDisplay):
    """A bar for the training under way; the next training takes its place."""

    def __init__(self, bar: Progress) -> None:
        self.bar = bar
        self.task: TaskID | None = None

    def stepped(self, done: int, steps: int) -> None:
        """Move the bar; begin another after the last step."""
        if self.task is None:
            # A resumed run begins above 0; its speed counts from there.
            self.task = self.bar.add_task("steps", total=steps, completed=done, scores="")
            return
        self.bar.update(self.task, completed=done)

    def evaluated(self, scores: Mapping[str, float]) -> None:
        """Write the scores behind the bar; they stay until the next evaluation."""
        if self.task is None:
            return
        self.bar.update(self.task, scores=format_scalars(scores))
        if self.bar.tasks[-1].finished:
            self.bar.remove_task(self.task)
            self.task = None


def _bars(about: str, bar: Progress) -> ReportProgress:
    """Return a callback that shows one bar for each kind of work."""
    tasks: dict[str, TaskID] = {}

    def report(what: str, done: int, total: int) -> None:
        if what not in tasks:
            tasks[what] = bar.add_task(printable(about + what), total=total or None, count="")
        bar.update(tasks[what], completed=done, total=total or None, count=_count(done, total))

    return report


class _Lines:
    """A callback that prints a line at most every `INTERVAL` seconds, and at the end the last state of all work."""

    def __init__(self, about: str) -> None:
        self.about = about
        self.printed = time.monotonic()
        self.first: dict[str, tuple[int, float]] = {}
        """Work -> number finished at its first report, and when that came."""
        self.owed: dict[str, str] = {}
        """Work -> its latest line that was not printed."""

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        # Resumed work starts at a `done` above 0 that took no time now, so the pace counts from the first report.
        begun, since = self.first.setdefault(what, (done, now))
        left = (now - since) / (done - begun) * (total - done) if begun < done < total else 0
        self.owed[what] = f"{self.about}{_count(done, total)} {what}" + (
            f", {format_duration(left)} left" if left >= 1 else ""
        )
        if now - self.printed >= INTERVAL:
            self.printed = now
            print_line(self.owed.pop(what))

    def end(self) -> None:
        """Print the lines that are owed."""
        for line in self.owed.values():
            print_line(line)


def _count(done: int, total: int) -> str:
    return f"{done:,} of {total:,}" if total else f"{done:,}"
