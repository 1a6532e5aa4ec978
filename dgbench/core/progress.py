"""Show on standard error how far long work is: a bar on a terminal, a line now and then anywhere else.

Imports rich only inside functions: planning imports this module, and rich takes longer to import than planning lasts.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from dgbench.core.wording import format_duration, printable

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

INTERVAL = 5.0
"""Seconds between two plain lines, at least."""


class ReportProgress(Protocol):
    """Takes reports of how far something is."""

    def __call__(self, what: str, done: int, total: int) -> None:
        """Report progress: `done` of `total` bytes or items of `what`; `total` is 0 where it is unknown."""
        ...


def print_line(line: str) -> None:
    """Print a line on standard error, above the bar if one is shown; escape unprintable characters."""
    print(printable(line), file=sys.stderr, flush=True)


@contextmanager
def shown_progress(about: str = "") -> Iterator[ReportProgress]:
    """Show the progress that is reported until the end of the block; each bar and line begins with `about`."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(about)
        return
    words = TextColumn("{task.description}", markup=False)  # which would take [x] for a style and :cat: for a picture
    columns = (words, BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[count]}"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        yield _bars(about, bar)


def _bars(about: str, bar: Progress) -> ReportProgress:
    """Show one bar for each kind of work."""
    tasks: dict[str, TaskID] = {}

    def report(what: str, done: int, total: int) -> None:
        if what not in tasks:
            tasks[what] = bar.add_task(printable(about + what), total=total or None, count="")
        bar.update(tasks[what], completed=done, total=total or None, count=_count(done, total))

    return report


def _lines(about: str) -> ReportProgress:
    """Print at most every `INTERVAL` seconds a line, with the time left at the pace since the first report."""
    first: dict[str, tuple[int, float]] = {}
    printed = time.monotonic()

    def report(what: str, done: int, total: int) -> None:
        nonlocal printed
        now = time.monotonic()
        begun, since = first.setdefault(what, (done, now))
        if now - printed >= INTERVAL:
            printed = now
            left = (now - since) / (done - begun) * (total - done) if begun < done < total else 0
            print_line(
                f"{about}{_count(done, total)} {what}" + (f", {format_duration(left)} left" if left >= 1 else "")
            )

    return report


def _count(done: int, total: int) -> str:
    return f"{done:,} of {total:,}" if total else f"{done:,}"
