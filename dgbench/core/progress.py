"""Reports progress of long work: a bar on a terminal, a line now and then anywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

INTERVAL = 10.0
"""Seconds between two plain lines, at least."""


class ReportProgress(Protocol):
    """Is told how far something is."""

    def __call__(self, what: str, done: int, total: int) -> None:
        """Of `what`, so many bytes or items are done; `total` is 0 where nobody knows."""
        ...


@contextmanager
def shown_progress() -> Iterator[ReportProgress]:
    """Shows what it is told on the standard error output."""
    if sys.stderr.isatty():
        # Planning imports this module for the protocol above; rich takes longer to import than planning lasts.
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

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
