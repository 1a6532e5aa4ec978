"""What a launch looks like while it lasts: a live table on a terminal, plain lines anywhere else."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import fmean

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dgbench.core.run import Run
from dgbench.core.wording import clock
from dgbench.launchers.base import Event, Observer
from dgbench.store.folder import Store

INTERVAL = 5.0
"""Seconds between two plain lines, at least."""

LONG = 60.0
"""Seconds after which a plain line comes even if no run has begun or ended, and says how far one is."""

_MOST_ROWS = 20  # running runs that the table shows
_TELLS = ("retry", "failed", "blocked", "stopping")


class Tally:
    """Counts what events tell, and estimates what is left from how long runs of the same kind and method took."""

    def __init__(self, store: Store, runs: Sequence[Run], jobs: int) -> None:
        self.store, self.jobs = store, jobs
        self.where = {run.id: "waiting" for run in runs}
        self.running: dict[str, tuple[Run, float]] = {}
        """By id: what is executed here, and since when by `time.monotonic`."""
        self._left = Counter((run.kind, run.method.name) for run in runs)
        self._took: dict[tuple[str, str], list[float]] = defaultdict(list)

    def add(self, event: Event) -> None:
        """Take one event into account."""
        run = event.run
        if run is None:
            return
        self.running.pop(run.id, None)
        names = {"found": "done", "started": "running", "retry": "waiting", "stopped": "waiting"}
        self.where[run.id] = names.get(event.what, event.what)
        if event.what == "started":
            self.running[run.id] = run, time.monotonic()
        elif event.what in ("found", "done", "failed", "blocked"):
            self._left[run.kind, run.method.name] -= 1
            if event.seconds:
                self._took[run.kind, run.method.name].append(event.seconds)

    def counts(self) -> str:
        """How many runs are where; only what there is, but always what is done."""
        count = Counter(self.where.values())
        parts = [f"{count['done']}/{len(self.where)} done"]
        places = ("running", "elsewhere", "failed", "blocked", "waiting")
        return ", ".join(parts + [f"{count[place]} {place}" for place in places if count[place]])

    def eta(self) -> float | None:
        """Seconds to the end, None before the first run has finished here."""
        took = {group: fmean(seconds) for group, seconds in self._took.items()}
        if not took:
            return None
        typical = fmean(second for seconds in self._took.values() for second in seconds)
        work = sum(number * took.get(group, typical) for group, number in self._left.items())
        for run, since in self.running.values():
            expected = took.get((run.kind, run.method.name), typical)
            work -= min(expected, time.monotonic() - since)
        return work / self.jobs

    def furthest(self) -> str:
        """The run that is nearest to its end of those that execute here; empty if none does."""
        steps = {id: self.store.folder(id).progress() or (0, 0) for id in self.running}
        if not steps:
            return ""
        id = max(steps, key=lambda id: steps[id][0] / max(1, steps[id][1]))
        step, of = steps[id]
        return f"{self.running[id][0].name}: " + (f"step {step:,} of {of:,}" if of else "before its first step")

    def line(self) -> str:
        """Counts and the estimate."""
        eta = self.eta()
        return self.counts() + (f", {clock(eta)} left" if eta else "")


def _told(event: Event) -> str:
    if event.run is None:
        return f"{event.what}: {event.detail}; running runs save their state"
    return f"{event.what}: {event.run.name} ({event.run.id}): {event.detail}"


def _table(tally: Tally) -> RenderableType:
    table = Table(box=None, pad_edge=False, show_header=False)
    for run, since in list(tally.running.values())[:_MOST_ROWS]:
        step, steps = tally.store.folder(run.id).progress() or (0, 0)
        told = f"{step}/{steps}" if steps else "starting"
        bar = ProgressBar(total=max(steps, 1), completed=step, width=20)
        table.add_row(Text(run.name), bar, Text(told), Text(clock(time.monotonic() - since)))
    return Group(table, Text(tally.line()))


def _plain(tally: Tally, console: Console, now: Callable[[], float]) -> Observer:
    last_time, last_line = now(), ""

    def observe(event: Event) -> None:
        nonlocal last_time, last_line
        tally.add(event)
        if event.what in _TELLS:
            console.print(_told(event), markup=False, highlight=False, soft_wrap=True)
        line = tally.line()
        since = now() - last_time
        if since >= INTERVAL and line != last_line:
            last_time, last_line = now(), line
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        elif since >= LONG and (far := tally.furthest()):
            last_time = now()
            console.print(f"{line}; {far}", markup=False, highlight=False, soft_wrap=True)

    return observe


def _live(tally: Tally, live: Live) -> Observer:
    shown = 0.0

    def observe(event: Event) -> None:
        nonlocal shown
        tally.add(event)
        if event.what in _TELLS:
            live.console.print(_told(event), markup=False, highlight=False, soft_wrap=True)
        if time.monotonic() - shown >= 0.2:  # thousands of runs found done are one picture
            shown = time.monotonic()
            live.update(_table(tally), refresh=True)

    return observe


@contextmanager
def progress(store: Store, runs: Sequence[Run], jobs: int, console: Console | None = None) -> Iterator[Observer]:
    """An observer for `drive` that shows what happens, on standard error unless a console is given.

    On a terminal: the runs that execute here with step and time, counts, time left. Elsewhere: a line of counts at
    most every `INTERVAL` seconds, and one with a run's step every `LONG` seconds in which nothing begins or ends.
    Failures are told at once, with reason and log; the last line says how it ended.
    """
    console = console or Console(stderr=True)
    tally = Tally(store, runs, jobs)
    if console.is_terminal:
        with Live(console=console, auto_refresh=False, transient=True) as live:
            yield _live(tally, live)
    else:
        yield _plain(tally, console, time.monotonic)
    console.print(tally.counts(), markup=False, highlight=False, soft_wrap=True)
