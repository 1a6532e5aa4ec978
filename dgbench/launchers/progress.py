"""Show how far a launch is: a live table on a terminal, plain lines anywhere else."""

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

from dgbench.core.halving import Outlook
from dgbench.core.progress import INTERVAL
from dgbench.core.run import Run
from dgbench.core.wording import format_duration, printable
from dgbench.launchers.base import Event, Observer
from dgbench.store.folder import Store
from dgbench.store.state import State

_MOST_ROWS = 20  # running runs that the table shows
_SETTLED = tuple(state.value for state in State if state.settled)
_AT_ONCE = ("retry", "failed", "blocked", "stopping", "leaving")


class Tally:
    """Counts of a launch's runs by state, with an estimate of the time left from runs of the same kind and method."""

    def __init__(self, store: Store, runs: Sequence[Run], jobs: int) -> None:
        self.store, self.jobs = store, jobs
        self.runs = {run.id: run for run in runs}
        self.where = {run.id: "waiting" for run in runs}
        self.running: dict[str, tuple[Run, float]] = {}
        """Run id -> start by `time.monotonic`, of the runs that this launch executes."""
        # The driver finds them again one by one, but the first line is printed before it starts.
        states = store.states(self.where, retries=0)
        self.where |= {id: state.value for id, state in states.items() if state.settled}
        self._outlooks = store.outlooks(self.where)
        self._weights = dict.fromkeys(self.where, 0.0)
        """Run id -> the share of its work that is left."""
        self._left: dict[tuple[str, str], float] = defaultdict(float)
        """Kind, method -> the sum of its runs' weights."""
        for id in self.where:
            self._weigh(id)
        self._took: dict[tuple[str, str], list[float]] = defaultdict(list)
        """Kind, method -> the seconds of whole runs, by the parts that were executed."""

    def _weigh(self, id: str) -> None:
        """Take in how much of its work a run has left; nothing if it is settled or can't go on."""
        outlook = self._outlooks.get(id, Outlook(0.0, 1.0))
        weight = 0.0 if self.where[id] in (*_SETTLED, "failed", "blocked") else outlook.left
        run = self.runs[id]
        self._left[run.kind, run.method.name] += weight - self._weights[id]
        self._weights[id] = weight

    def add(self, event: Event) -> None:
        """Update the counts by one event."""
        run = event.run
        if run is None:
            return
        _, since = self.running.pop(run.id, (run, None))
        names = {"found": "done", "started": "running", "retry": "waiting", "stopped": "waiting"}
        self.where[run.id] = names.get(event.what, event.what)
        if event.what == "started":
            self.running[run.id] = run, time.monotonic()
        before = self._made(run.id)
        if run.id in self._outlooks and event.what in ("paused", *_SETTLED):  # others of its bracket may be dropped now
            self._outlooks |= (changed := self.store.outlooks([run.id]))
            for id in changed:
                self._weigh(id)
        self._weigh(run.id)
        if event.what == "paused" and since is not None:
            self._time(run, time.monotonic() - since, self._made(run.id) - before)
        elif event.seconds:
            self._time(run, event.seconds, 1.0 - before)

    def _made(self, id: str) -> float:
        """Return the share of its work that a run has made up to the last rung of the search."""
        return self._outlooks[id].made if id in self._outlooks else 0.0

    def _time(self, run: Run, seconds: float, made: float) -> None:
        """Take in that a share of a run's work took so long."""
        if made > 0:
            self._took[run.kind, run.method.name].append(seconds / made)

    def counts(self) -> str:
        """Format the number of runs in each state; done always, the other states where there are any."""
        count = Counter(self.where.values())
        parts = [f"{count['done']}/{len(self.where)} done"]
        places = ("dropped", "running", "elsewhere", "failed", "blocked", "paused", "waiting")
        return ", ".join(parts + [f"{count[place]} {place}" for place in places if count[place]])

    def eta(self) -> float | None:
        """Estimate the seconds to the end of the launch; None before the first run has finished on this machine."""
        took = {group: fmean(seconds) for group, seconds in self._took.items()}
        if not took:
            return None
        typical = fmean(second for seconds in self._took.values() for second in seconds)
        work = sum(number * took.get(group, typical) for group, number in self._left.items())
        for run, since in self.running.values():
            expected = took.get((run.kind, run.method.name), typical) * self._weights[run.id]
            work -= min(expected, time.monotonic() - since)
        return max(0.0, round(work / self.jobs, 3))  # sums of shares leave a rest behind the last digit

    def furthest(self) -> str:
        """Format the progress of the run that is nearest to its end; empty if none executes."""
        steps = {id: self.store.folder(id).progress() or (0, 0) for id in self.running}
        if not steps:
            return ""
        id = max(steps, key=lambda id: steps[id][0] / max(1, steps[id][1]))
        step, of = steps[id]
        return f"{self.running[id][0].name}: " + (f"step {step:,} of {of:,}" if of else "before its first step")

    def line(self) -> str:
        """Format the counts and the time left in one line."""
        eta = self.eta()
        return self.counts() + (f", {format_duration(eta)} left" if eta else "")


def _describe(event: Event) -> str:
    if event.what == "leaving":
        return f"leaving: {event.detail}"
    if event.run is None:
        return printable(f"{event.what}: {event.detail}; running runs save their state")
    return printable(f"{event.what}: {event.run.name} ({event.run.id}): {event.detail}")


def _table(tally: Tally) -> RenderableType:
    table = Table(box=None, pad_edge=False, show_header=False)
    for run, since in list(tally.running.values())[:_MOST_ROWS]:
        step, steps = tally.store.folder(run.id).progress() or (0, 0)
        told = f"{step}/{steps}" if steps else "starting"
        bar = ProgressBar(total=max(steps, 1), completed=step, width=20)
        table.add_row(Text(run.name), bar, Text(told), Text(format_duration(time.monotonic() - since)))
    return Group(table, Text(tally.line()))


def _lines(tally: Tally, console: Console) -> Callable[[], None]:
    """Print counts at once, then every `INTERVAL` seconds; where they have not changed, with how far a run is."""
    last_time, last_line = -float("inf"), ""

    def show() -> None:
        nonlocal last_time, last_line
        now = time.monotonic()
        if now - last_time < INTERVAL:
            return
        line = tally.line()
        if line != last_line:
            last_time, last_line = now, line
            console.out(line, highlight=False)
        elif far := tally.furthest():
            last_time = now
            console.out(f"{line}; {far}", highlight=False)

    return show


def _pictures(tally: Tally, live: Live) -> Callable[[], None]:
    """Update the table on the terminal, but not for each of thousands of runs that were done before."""
    shown = -1.0

    def show() -> None:
        nonlocal shown
        if time.monotonic() - shown >= 0.2:
            shown = time.monotonic()
            live.update(_table(tally), refresh=True)

    return show


@contextmanager
def progress(store: Store, runs: Sequence[Run], jobs: int, console: Console | None = None) -> Iterator[Observer]:
    """Display the progress of a launch until the end of the block.

    On a terminal: the runs that execute here with step and time, counts, time left. Elsewhere: a line of counts at
    once and then every `INTERVAL` seconds, with a run's step if nothing has begun or ended since the last. Failures are
    shown at once, with reason and log; the last line says how it ended.

    Args:
        store: The runs' folders.
        runs: All runs of the launch, those that are done included.
        jobs: How many are executed at a time.
        console: The place to show it; None: standard error.

    Yields:
        The observer to call with each event.
    """
    console = console or Console(stderr=True)
    tally = Tally(store, runs, jobs)

    def observe(event: Event) -> None:
        tally.add(event)
        if event.what in _AT_ONCE:
            console.out(_describe(event), highlight=False)
        show()

    with Live(console=console, auto_refresh=False, transient=True) as live:  # which writes to terminals alone
        show = _pictures(tally, live) if console.is_terminal else _lines(tally, console)
        show()  # before the first run, which may wait many seconds for torch to be imported
        yield observe
    console.out(tally.counts(), highlight=False)
