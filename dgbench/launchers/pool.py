"""Execute a sweep by workers that a scheduler starts, such as the queue of a cluster.

A scheduler only starts workers and counts those that are left. What they have done is read from the sweep's folder, so
that nothing depends on the command that started them: it may end, and another may go on.
"""

from __future__ import annotations

import math
import shlex
import sys
import time
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import ClassVar

from dgbench.core.errors import UserError
from dgbench.core.wording import count_nouns
from dgbench.launchers.base import STOPPED_EARLY, Event, Observer, What
from dgbench.launchers.interrupts import Interrupts
from dgbench.launchers.launcher import Launcher, remember_launcher
from dgbench.launchers.progress import progress
from dgbench.launchers.reconcile import Sweep
from dgbench.store.state import State

MOST_TRIES = 3
"""Number of times that workers are started again although those before them made no step."""
_LOOK = 2.0  # seconds between two looks at the folder


@dataclass(frozen=True, kw_only=True)
class WorkerLauncher(Launcher):
    """A launcher that has a scheduler start workers, each `dgbench worker` on some machine that sees the folder."""

    detaches: ClassVar[bool] = True
    least: ClassVar[Mapping[str, float]] = {"workers": 1, "idle": 0, "poll": 0}
    grace: float = 25.0
    """Seconds that a worker's runs have to save their state when it is stopped."""
    workers: int = 8
    """Most workers at once; fewer are started where fewer runs are left."""
    idle: float = 120.0
    """Seconds after which a worker leaves that finds no run to execute."""
    poll: float = 15.0
    """Seconds between two questions to the scheduler."""

    @abstractmethod
    def start(self, root: Path, count: int) -> str:
        """Have the scheduler start workers, each by the words of `command`.

        Args:
            root: The sweep's folder.
            count: Number of workers.

        Returns:
            A line on the jobs that were submitted.

        Raises:
            UserError: The scheduler refuses them.
        """

    @abstractmethod
    def alive(self, root: Path) -> int | None:
        """Count the sweep's workers that wait or run; None if the scheduler can't be reached now."""

    def lost(self) -> str:
        """Return a line if the scheduler is gone for good, so that no worker can be started again; empty otherwise."""
        return ""

    def interrupted(self, root: Path) -> str:
        """Return a line on the workers, after Ctrl-C has ended the command."""
        return f"the workers go on; to stop them: dgbench cancel {shlex.quote(str(root))}"

    @property
    def per_gpu(self) -> int:
        """Return the number of runs that are expected on a GPU; with `auto`, one, as long as no worker has looked."""
        return self.jobs_per_gpu if isinstance(self.jobs_per_gpu, int) else 1

    def slots(self) -> int:
        """Return the number of runs that a worker is expected to execute at once."""
        return self.jobs or 1

    def command(self, root: Path) -> list[str]:
        """Return the words of the command that is a worker."""
        options = {"idle": self.idle, "grace": self.grace, "jobs": self.jobs, "jobs_per_gpu": self.jobs_per_gpu}
        words = [
            f"--{name}={value if isinstance(value, str) else f'{value:g}'}"
            for name, value in options.items()
            if value is not None
        ]
        return [sys.executable, "-m", "dgbench", "worker", str(root.resolve()), *words]

    def preview(self, sweep: Sweep, *, rehearse: bool) -> Iterator[str]:
        """Yield lines on the runs that are left, and on the workers that would be started."""
        left = sum(not state.settled for state in sweep.states().values())
        yield f"runs: {left:,} of {len(sweep.plan.runs):,} are left"
        yield f"launcher: {self.name}, {count_nouns(self.wanted(left), 'worker')}"

    def wanted(self, left: int) -> int:
        """Return the number of workers for that many runs."""
        return min(self.workers, math.ceil(left / self.slots()))

    def execute(self, sweep: Sweep, *, detach: bool = False) -> int:
        """Start workers, and watch the folder until every run is settled; start them again if they all got lost.

        Args:
            sweep: The sweep, whose folder is written.
            detach: Return as soon as the workers are submitted.

        Returns:
            The exit code: 0 if all runs are done, 1 if some failed, 75 if it stopped before the end.
        """
        watched = _Watched(sweep)
        watched.look()
        if watched.open:
            before = self.alive(sweep.root)
            if before is None:
                raise UserError(f"launcher {self.name}: the scheduler does not answer")
            self._start(sweep, self.wanted(len(watched.open)) - before)
        if detach:
            print(f"left to {self.name}; to see how far it is: dgbench status {shlex.quote(str(sweep.root))}")
            return 0
        with (
            progress(sweep.store, sweep.plan.runs, self.workers * self.slots()) as observer,
            Interrupts() as interrupts,
        ):
            watched.observer = observer
            why = self._watch(sweep, watched, interrupts)
        return _conclude(watched, why)

    def _start(self, sweep: Sweep, count: int) -> None:
        if count > 0:
            remember_launcher(sweep.root, self)
            print(self.start(sweep.root, count), flush=True)

    def _watch(self, sweep: Sweep, watched: _Watched, interrupts: Interrupts) -> str:
        """Return once no run is open, with an empty text, or before that with the reason."""
        mark, tries, reached = sweep.store.cancel_mark(), 0, watched.steps()
        polled = time.monotonic()
        while True:
            watched.look()
            if not watched.open:
                return ""
            if interrupts.name:
                return self.interrupted(sweep.root)
            if sweep.store.cancel_mark() not in (None, mark):
                return "canceled"
            if time.monotonic() - polled >= self.poll and not watched.running:
                polled = time.monotonic()
                # The folder is read again after the question: a worker may have taken up a run and left in between.
                if self.alive(sweep.root) == 0 and not watched.look().running and watched.open:
                    if why := self.lost():
                        return why
                    tries = 0 if watched.steps() > reached else tries + 1
                    reached = watched.steps()
                    if tries >= MOST_TRIES:
                        ends = "\n".join(self.queue(sweep.root))
                        return f"workers were started {tries} times without a step made\n{ends}".strip()
                    self._start(sweep, self.wanted(len(watched.open)))
            wait([interrupts.fileno()], min(_LOOK, max(0.1, self.poll)))


class _Watched:
    """The runs of a sweep as they were at the last look at its folder; changes are reported as events."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        self.observer: Observer | None = None
        self.open = {run.id: run for run in sweep.plan.runs}
        """The runs without an outcome."""
        self.dropped = 0
        """Number of runs that the search has dropped."""
        self.lost: dict[str, str] = {}
        """Run id -> why it has failed, or can't be executed."""
        self.running: dict[str, float] = {}
        """Id of each run that a worker executes -> time at which that was seen first."""

    def look(self) -> _Watched:
        """Read the states of open runs."""
        states = self.sweep.store.states(self.open, self.sweep.site.retries)
        for run in list(self.open.values()):  # in the order of the plan, so that those that a run reads come first
            state = states[run.id]
            needs = [source.run for source in run.inputs]
            if state is State.PAUSED:
                needs = [*self.sweep.store.standing(run.id).awaited]
            blocking = [other for other in needs if other in self.lost]
            if state is State.RUNNING:
                if run.id not in self.running:
                    self._report("started", run.id)
                    self.running[run.id] = time.monotonic()
            elif state is State.DONE:
                since = self.running.get(run.id)
                self._settle("done", run.id, seconds=time.monotonic() - since if since else 0.0)
            elif state is State.DROPPED:
                self._settle("dropped", run.id)
            elif state in (State.FAILED, State.DAMAGED):
                self._settle("failed", run.id, self.sweep.store.folder(run.id).reason(self.sweep.site.retries))
            elif blocking:
                self._settle("blocked", run.id, f"needs {', '.join(blocking)}, which failed")
            elif self.running.pop(run.id, None):
                self._report("paused" if state is State.PAUSED else "stopped", run.id)
        if self.observer:
            self.observer(Event("tick"))
        return self

    def steps(self) -> tuple[int, int]:
        """Return a pair that grows with each outcome, and with each step of an open run."""
        begun = (self.sweep.store.folder(id).progress() for id in self.open)
        return -len(self.open), sum(step for step, _ in filter(None, begun))

    def counts(self) -> str:
        """Format the number of runs by outcome."""
        done = len(self.sweep.plan.runs) - len(self.open) - len(self.lost) - self.dropped
        found = {"done": done, "dropped": self.dropped, "failed or blocked": len(self.lost), "left": len(self.open)}
        return ", ".join(f"{count:,} {what}" for what, count in found.items() if count)

    def _settle(self, what: What, id: str, detail: str = "", seconds: float = 0.0) -> None:
        self._report(what, id, detail, seconds)
        self.running.pop(id, None)
        del self.open[id]
        self.dropped += what == "dropped"
        if what not in ("done", "dropped"):
            self.lost[id] = detail

    def _report(self, what: What, id: str, detail: str = "", seconds: float = 0.0) -> None:
        if self.observer:
            self.observer(Event(what, self.open[id], detail, seconds))


def _conclude(watched: _Watched, why: str) -> int:
    """Print how a launch ended; return its exit code."""
    print(watched.counts())
    if why:
        print(why)
    return STOPPED_EARLY if watched.open else int(bool(watched.lost))
