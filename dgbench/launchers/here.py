"""Execute a sweep in this very process, one run after the other, for a debugger: `--launcher here`."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from dgbench.core.errors import Problems
from dgbench.core.machine import threads_that_sleep, usable_cores
from dgbench.core.run import Run
from dgbench.core.wording import printable
from dgbench.launchers.base import Ended, Engine, Event, Slot
from dgbench.launchers.interrupts import Interrupts
from dgbench.launchers.launcher import Launcher
from dgbench.launchers.reconcile import Sweep
from dgbench.store.lease import STOPPED


@dataclass(frozen=True, kw_only=True)
class Here(Launcher):
    """Runs execute in this process, one after the other: breakpoints stop it, and their output is on the terminal."""

    name = "here"

    def __post_init__(self) -> None:
        """Raise UserError for options that a single process can't follow."""
        problems = Problems()
        with problems.collecting():
            super().__post_init__()
        if self.jobs not in (None, 1) or self.jobs_per_gpu != 1:
            problems.add("launcher here: one run executes at a time; leave --jobs and --jobs_per_gpu out")
        problems.raise_if_any()

    def preview(self, sweep: Sweep, *, rehearse: bool) -> Iterator[str]:
        """Yield the number of runs."""
        yield f"runs: {len(sweep.plan.runs):,}, one after the other in this process"

    def execute(self, sweep: Sweep, *, detach: bool = False) -> int:
        """Execute the unfinished runs; return the exit code."""
        with Interrupts() as interrupts:
            return sweep.execute_by(InProcess(sweep), interrupts, _print_event)


@dataclass
class InProcess(Engine):
    """An engine that executes one run at a time in this process, during `wait`."""

    sweep: Sweep
    _next: Run | None = field(default=None, init=False)

    @property
    def capacity(self) -> int:
        """Return 1 unless a run is submitted already."""
        return int(self._next is None)

    def submit(self, runs: Sequence[Run]) -> None:
        """Note the run that `wait` executes."""
        (self._next,) = runs

    def wait(self, timeout: float) -> Sequence[Ended]:
        """Execute the submitted run to its end."""
        if self._next is None:
            time.sleep(timeout)
            return []
        with threads_that_sleep():
            from dgbench.execute.job import run_job  # imports torch, which refusals do without

        run, began = self._next, time.monotonic()
        slot = Slot(index=0, gpu=None, threads=usable_cores())
        status = run_job(self.sweep.job(run, slot), self.sweep.catalogue)
        self._next = None
        if status == STOPPED:
            # The run has taken the signal that was meant for the whole launch.
            signal.raise_signal(signal.SIGINT)
        return [Ended(run.id, status, stopped=status == STOPPED, seconds=time.monotonic() - began)]

    def cancel(self) -> None:
        """Drop a run that was submitted and not begun."""
        self._next = None

    kill = close = cancel


def _print_event(event: Event) -> None:
    """Print the changes of runs, each as a line: a live table would be in the way of a debugger."""
    if event.run and event.what != "found":
        print(printable(f"{event.what}: {event.run.name}{f': {event.detail}' if event.detail else ''}"), flush=True)
