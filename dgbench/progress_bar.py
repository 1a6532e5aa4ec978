"""How far something is: a bar on a terminal, now and then a line anywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from dgbench.dataset import Progress as Observer

INTERVAL = 10.0
"""Seconds between two plain lines, at least."""


@contextmanager
def shown_progress() -> Iterator[Observer]:
    """Shows what it is told on the standard error output."""
    if sys.stderr.isatty():
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[count]}"))
        with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
            yield _Bars(bar)
    else:
        yield _Lines()


class _Bars:
    """One bar for each thing."""

    def __init__(self, bar: Progress) -> None:
        self.bar = bar
        self.tasks: dict[str, TaskID] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        if what not in self.tasks:
            self.tasks[what] = self.bar.add_task(what, count="")
        self.bar.update(self.tasks[what], completed=done, total=total or None, count=_count(done, total))


class _Lines:
    """A line every `INTERVAL` seconds."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    def __call__(self, what: str, done: int, total: int) -> None:
        if time.monotonic() - self.last >= INTERVAL:
            self.last = time.monotonic()
            print(f"{_count(done, total)} {what}", file=sys.stderr, flush=True)


def _count(done: int, total: int) -> str:
    return f"{done:,} of {total:,}" if total else f"{done:,}"
