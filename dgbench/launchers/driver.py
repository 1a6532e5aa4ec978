"""Execute the unfinished runs of a sweep through an engine, each after the runs that it reads.

A launch keeps no truth of its own. It reads the outcome of each attempt from the run's folder, and claims nothing: the
process that executes a run takes the run's lease, and exits at once if another process holds it. Several launches, on
one or more machines, may therefore work on the same sweep. Each starts the runs that no process executes, and looks
again at the others once a second.
"""

from __future__ import annotations

import heapq
import os
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing

from dgbench.core.run import Run
from dgbench.launchers.base import TO_THE_END, Ended, Engine, Event, Leaving, Observer, Summary, Terms, What
from dgbench.launchers.failures import record_failure
from dgbench.launchers.interrupts import Interrupts
from dgbench.store import lease as leases
from dgbench.store.folder import Store
from dgbench.store.lease import AT_RUNG, INPUT_DAMAGED, STOPPED, TAKEN
from dgbench.store.run_folder import DONE, RunFolder
from dgbench.store.state import State

TICK = 1.0
"""Seconds between two looks at the runs that other launches execute, and at the mark of `cancel`."""

MOST_DAMAGED = 3
"""Number of times that a run may find an input damaged and have it made again; once more is a failure."""


def drive(
    store: Store,
    runs: Sequence[Run],
    engine: Engine,
    retries: int,
    interrupts: Interrupts,
    observer: Observer = lambda event: None,
    terms: Terms = TO_THE_END,
    first: int = 0,
) -> Summary:
    """Execute unfinished runs by an engine until all are settled, a stop comes, or the terms end; close the engine.

    Args:
        store: The sweep's folder.
        runs: The planned runs in the order in which they start.
        engine: An engine without attempts. It is closed on return, also after an exception.
        retries: Number of times that a failed run is tried again, over all launches.
        interrupts: Notes signals: after the first, running runs save their state; after a second Ctrl-C, they are
            killed.
        observer: Called with every `Event`.
        terms: Conditions under which it ends before all runs are settled.
        first: Place of the run that starts first. The order goes on from there to the end, and then from the beginning,
            so that processes which start together don't all try the same run.

    Returns:
        The outcome of each run.

    Raises:
        OSError: The sweep folder cannot be written.
    """
    began = time.monotonic()
    with closing(engine):
        launch = _Launch(store, runs, engine, retries, interrupts, observer, terms, first)
        launch.survey()
        launch.loop()
    summary = launch.summary
    summary.left = [run.id for run in runs if run.id in launch.open]
    summary.elapsed = time.monotonic() - began
    return summary


class _Launch:
    """The state of one launch. Each run of `open` is ready, running, elsewhere, or waits for its inputs."""

    def __init__(
        self,
        store: Store,
        runs: Sequence[Run],
        engine: Engine,
        retries: int,
        interrupts: Interrupts,
        observer: Observer,
        terms: Terms,
        first: int,
    ) -> None:
        self.store, self.engine, self.retries = store, engine, retries
        self.interrupts, self.observer, self.terms = interrupts, observer, terms
        self.runs = [*runs[first:], *runs[:first]]
        self.index = {run.id: i for i, run in enumerate(self.runs)}
        self.open = set(self.index)
        """Ids of the runs without an outcome yet."""
        self.ready: list[int] = []
        """Places of runs in `runs`; a heap, so that runs start in the order of the plan."""
        self.running: dict[str, bool] = {}
        """Id of each run that the engine executes -> whether its attempt takes over an unreleased lease."""
        self.reached: dict[str, int] = {}
        """Id of each run that the engine executes -> the step that it had reached before."""
        self.elsewhere: set[str] = set()
        """Ids of runs that other launches execute, that wait for others at a rung of the search, or that just left the
        engine without an outcome.
        """
        self.missing_inputs: dict[str, set[str]] = {}
        """Run id -> ids of the runs that it reads and that are not done."""
        self.needed_by: dict[str, list[str]] = {}
        """Run id -> ids of the runs that wait for it."""
        self.damaged = Counter[str]()
        """Run id -> number of times that it found an input damaged."""
        self.summary = Summary()
        self.looked = self.ticked = 0.0
        self.busy = time.monotonic()
        """Time at which a run was last executed."""
        self.failures = 0
        """Number of attempts in a row that failed."""
        self.mark = store.cancel_mark()

    def emit(self, what: What, id: str, detail: str = "", seconds: float = 0.0) -> None:
        self.observer(Event(what, self.runs[self.index[id]], detail, seconds))

    def survey(self) -> None:
        """Sort the runs by their states in the folder."""
        inputs = {source.run for run in self.runs for source in run.inputs}
        states = self.store.states({*self.index, *inputs}, self.retries, thorough=True)
        for run in self.runs:
            self.missing_inputs[run.id] = {s.run for s in run.inputs if states[s.run] is not State.DONE}
            for needed in self.missing_inputs[run.id]:
                self.needed_by.setdefault(needed, []).append(run.id)
            if states[run.id] is State.DONE:
                self.open.discard(run.id)
                self.summary.found.append(run.id)
                self.store.folder(run.id).remove_checkpoint()
                self.emit("found", run.id)
            elif states[run.id] is State.DROPPED:
                self.drop(run.id)
        for run in self.runs:
            # Not a difference with `index.keys()`, which would go through all runs for each run.
            outside = sorted(needed for needed in self.missing_inputs[run.id] if needed not in self.index)
            if outside:
                self.block(run.id, f"needs {', '.join(outside)}, neither done nor part of this launch")
            elif run.id in self.open and states[run.id] is State.DAMAGED:
                self.fail(run.id, f"{self.store.damage(run.id)}: `dgbench sweep retry` makes it again")
            elif run.id in self.open and states[run.id] is State.FAILED:
                self.fail(run.id, self.store.folder(run.id).reason(self.retries))
            elif run.id in self.open and states[run.id] is State.PAUSED:
                self.elsewhere.add(run.id)
            elif run.id in self.open and not self.missing_inputs[run.id]:
                heapq.heappush(self.ready, self.index[run.id])

    def stopping(self) -> bool:
        """Return whether a signal came: it may have reached runs, too, and their end says nothing about them."""
        return bool(self.interrupts.name)

    def loop(self) -> None:
        """Start and judge runs until all are settled, or until it is to end and every started attempt has ended."""
        summary = self.summary
        while self.running or (self.open and not summary.stopped and not summary.leaving):
            if not summary.stopped:
                summary.stopped = self.cause_of_stop()
                if summary.stopped:
                    self.observer(Event("stopping", detail=summary.stopped))
                    self.engine.cancel()
            elif self.interrupts.insisted:
                self.engine.kill()
            if not summary.stopped and not summary.leaving:
                self.start_ready()
            self.judge_ended()
            if not summary.stopped and not summary.leaving:
                self.look_elsewhere()
                summary.leaving = self.cause_of_leaving()

    def cause_of_stop(self) -> str:
        if self.stopping():
            return self.interrupts.name
        if self.store.cancel_mark() not in (None, self.mark):
            return "cancel"
        return "time" if time.monotonic() >= self.terms.until else ""

    def cause_of_leaving(self) -> Leaving:
        """Return the one of the terms that is met; report it."""
        if not self.open:
            return ""
        if self.terms.once and self.summary.attempted:
            return "once"
        if self.failures >= self.terms.max_failures:
            self.observer(Event("leaving", detail=f"{self.failures} runs failed in a row"))
            return "failures"
        if self.running or self.ready:
            self.busy = time.monotonic()
        elif self.terms.replanned():
            return "replanned"
        elif time.monotonic() - self.busy >= self.terms.idle:
            self.observer(Event("leaving", detail=f"no run could be claimed for {self.terms.idle:g} s"))
            return "idle"
        return ""

    def start_ready(self) -> None:
        """Submit as many ready runs as the engine has room for, in their order."""
        chosen: list[Run] = []
        room = min(self.engine.capacity, 1 - len(self.running)) if self.terms.once else self.engine.capacity
        while self.ready and len(chosen) < room:
            run = self.runs[heapq.heappop(self.ready)]
            folder = self.store.folder(run.id)
            state = self.store.state(run.id, self.retries)
            if state in (State.MISSING, State.WAITING):
                folder.create(run)
                newest, released = leases.newest(os.listdir(folder.path))
                self.running[run.id] = bool(newest and not released)
                self.reached[run.id] = _step(folder)
                chosen.append(run)
            else:
                self.look(run.id, state)
        if chosen:
            self.engine.submit(chosen)
            self.summary.executed += len(chosen)
            self.summary.most = max(self.summary.most, len(self.running))
        for run in chosen:
            self.emit("started", run.id)

    def judge_ended(self) -> None:
        """Judge the attempts that end within a tick."""
        for ended in self.engine.wait(TICK if self.open else 0):
            self.judge(ended)
        if time.monotonic() - self.ticked >= TICK:
            self.ticked = time.monotonic()
            self.observer(Event("tick"))

    def judge(self, ended: Ended) -> None:
        """Settle an ended attempt by the run's folder; record the failure of one that was killed and could not."""
        folder = self.store.folder(ended.id)
        self.summary.taken_over += self.running.pop(ended.id) and ended.status != TAKEN
        if ended.status != TAKEN:
            self.summary.attempted = ended.id
            finished = (folder.path / DONE).exists()
            self.summary.stepped = self.summary.stepped or finished or _step(folder) > self.reached[ended.id]
        if (folder.path / DONE).exists():
            self.failures = 0
            self.done(ended.id, ended.seconds if ended.status == 0 else 0.0)
        elif ended.status in (TAKEN, STOPPED) or ended.stopped or (ended.status < 0 and self.stopping()):
            if ended.lease is not None:
                leases.mark_released(folder.path, ended.lease)
            self.emit("elsewhere" if ended.status == TAKEN else "stopped", ended.id)
            self.elsewhere.add(ended.id)
            # Look a tick later: the process that holds the run may be about to write its outcome.
            self.looked = time.monotonic()
        elif ended.status == AT_RUNG:
            self.failures = 0
            self.emit("paused", ended.id)
            self.elsewhere.add(ended.id)
            # Look at once: if it was the last that others waited for, they go on or are dropped.
            self.looked = 0.0
        elif ended.status == INPUT_DAMAGED and self.damaged[ended.id] < MOST_DAMAGED:
            self.damaged[ended.id] += 1
            if ended.lease is not None:
                leases.mark_released(folder.path, ended.lease)
            self.wait_for_inputs(ended.id)
        else:
            record_failure(folder, ended)
            self.failures += 1
            state = self.store.state(ended.id, self.retries)
            if state in (State.MISSING, State.WAITING):
                self.emit("retry", ended.id, folder.reason(self.retries))
            self.look(ended.id, state)

    def wait_for_inputs(self, id: str) -> None:
        """Have damaged inputs of a run made again before the run itself."""
        run = self.runs[self.index[id]]
        states = self.store.states({source.run for source in run.inputs}, self.retries)
        missing = {other for other, state in states.items() if state is not State.DONE}
        outside = sorted(missing - self.index.keys())
        self.emit("retry", id, "it reads a damaged file of another run, which is made again")
        if outside:
            self.block(id, f"needs {', '.join(outside)}, neither done nor part of this launch")
            return
        self.missing_inputs[id] = missing
        for other in sorted(missing):
            dependents = self.needed_by.setdefault(other, [])
            if id not in dependents:
                dependents.append(id)
            if other not in self.open:
                self.open.add(other)
                for settled in (self.summary.found, self.summary.done):
                    if other in settled:
                        settled.remove(other)
                restarts = self.store.folder(other).restarts()
                self.emit("retry", other, f"begins anew: {restarts[-1]['why'] if restarts else 'its results are gone'}")
                self.look(other, states[other])
        if not missing:  # another process has made it again meanwhile
            heapq.heappush(self.ready, self.index[id])

    def look_elsewhere(self) -> None:
        """Read, once a tick, the states of runs that other launches execute."""
        if self.elsewhere and time.monotonic() - self.looked >= TICK:
            self.looked = time.monotonic()
            for id, state in self.store.states(sorted(self.elsewhere), self.retries).items():
                self.look(id, state)

    def look(self, id: str, state: State) -> None:
        """Sort a run that the engine doesn't execute by the state of its folder."""
        if state in (State.RUNNING, State.PAUSED):
            if id not in self.elsewhere:
                self.elsewhere.add(id)
                self.emit("elsewhere" if state is State.RUNNING else "paused", id)
            if state is State.PAUSED:
                self.block_paused(id)
            return
        self.elsewhere.discard(id)
        if state is State.DONE:
            self.done(id)
        elif state is State.DROPPED:
            self.drop(id)
        elif state is State.FAILED:
            self.fail(id, self.store.folder(id).reason(self.retries))
        else:
            heapq.heappush(self.ready, self.index[id])

    def done(self, id: str, seconds: float = 0.0) -> None:
        self.open.discard(id)
        self.summary.done.append(id)
        self.store.folder(id).remove_checkpoint()  # left behind if the run was killed right after it wrote `done`
        self.emit("done", id, seconds=seconds)
        for dependent in self.needed_by.get(id, ()):
            missing = self.missing_inputs[dependent]
            missing.discard(id)
            if not missing and dependent in self.open:
                heapq.heappush(self.ready, self.index[dependent])

    def drop(self, id: str) -> None:
        """Settle a run that the search has dropped, and those that would have read it."""
        if id in self.open:
            self.open.discard(id)
            self.elsewhere.discard(id)
            self.summary.dropped.append(id)
            self.store.folder(id).remove_checkpoint()
            self.emit("dropped", id)
            for dependent in self.needed_by.get(id, ()):
                self.drop(dependent)

    def block_paused(self, id: str) -> None:
        """Block a run that waits at a rung of the search for one that never gets there."""
        lost = {*self.summary.failed, *self.summary.blocked}.intersection(self.store.standing(id).awaited)
        if lost:
            self.elsewhere.discard(id)
            self.block(id, f"waits at a rung of the search for {', '.join(sorted(lost))}, which failed")

    def fail(self, id: str, reason: str) -> None:
        self.open.discard(id)
        self.summary.failed[id] = reason
        self.emit("failed", id, reason)
        self.block_dependents(id, "failed")

    def block(self, id: str, why: str) -> None:
        if id in self.open:
            self.open.discard(id)
            self.summary.blocked[id] = why
            self.emit("blocked", id, why)
            self.block_dependents(id, "is blocked")

    def block_dependents(self, id: str, which: str) -> None:
        for dependent in self.needed_by.get(id, ()):
            self.block(dependent, f"needs {self.runs[self.index[id]].name} ({id}), which {which}")


def _step(folder: RunFolder) -> int:
    """Return the step that a run has reached; 0 if it is unknown."""
    progress = folder.progress()
    return progress[0] if progress else 0
