"""Runs on this machine: a process a run, forked from one server into slots. What happened to a run is read from its
folder, so several launchers may work on one sweep: each starts what nobody executes and looks again at the rest.
"""

from __future__ import annotations

import heapq
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dgbench.core.run import Run
from dgbench.launchers.base import Event, Observer, Slot, Summary, What
from dgbench.launchers.forkserver import ForkServer
from dgbench.launchers.slots import Attempt, Interrupts, LocalSlots, make_slots
from dgbench.store import lease as leases
from dgbench.store.folder import UNMENDED, State, Store
from dgbench.store.lease import STOPPED, TAKEN

TICK = 1.0
"""Seconds between two looks at the runs that others execute, and at the cancel marker."""

_TAIL = 4000  # characters of the log that a failure keeps


class _Launch:
    """The driver: which runs are ready, elsewhere, or settled."""

    def __init__(self, store: Store, runs: Sequence[Run], retries: int, engine: LocalSlots, observer: Observer) -> None:
        self.store, self.retries, self.engine, self.observer = store, retries, engine, observer
        self.runs = list(runs)
        self.index = {run.id: i for i, run in enumerate(runs)}
        self.open = set(self.index)
        self.ready: list[int] = []
        self.elsewhere: set[str] = set()
        self.missing_inputs: dict[str, set[str]] = {}
        self.needed_by: dict[str, list[str]] = {}
        self.summary = Summary()
        self.looked = self.ticked = 0.0
        self.began = store.clock()

    def emit(self, what: What, id: str, detail: str = "", seconds: float = 0.0) -> None:
        self.observer(Event(what, self.runs[self.index[id]], detail, seconds))

    def survey(self) -> None:
        """Sort the runs by what the folder says."""
        inputs = {source.run for run in self.runs for source in run.inputs}
        states = self.store.states({*self.index, *inputs}, self.retries)
        for run in self.runs:
            missing = {source.run for source in run.inputs if states[source.run] is not State.DONE}
            self.missing_inputs[run.id] = missing
            for needed in missing:
                self.needed_by.setdefault(needed, []).append(run.id)
        for run in self.runs:
            if states[run.id] is State.DONE:
                self.open.discard(run.id)
                self.summary.found.append(run.id)
                self.emit("found", run.id)
        for run in self.runs:
            if run.id in self.open:
                self._sort(run.id, states[run.id])

    def _sort(self, id: str, state: State) -> None:
        outside = [needed for needed in self.missing_inputs[id] if needed not in self.index]
        if outside:
            self.block(id, f"needs {', '.join(sorted(outside))}, neither done nor part of this launch")
        elif state is State.FAILED:
            self.failed(id)
        elif not self.missing_inputs[id]:
            heapq.heappush(self.ready, self.index[id])

    def done(self, id: str, seconds: float = 0.0) -> None:
        self.open.discard(id)
        self.summary.done.append(id)
        self.emit("done", id, seconds=seconds)
        for dependent in self.needed_by.get(id, ()):
            missing = self.missing_inputs[dependent]
            missing.discard(id)
            if not missing and dependent in self.open:
                heapq.heappush(self.ready, self.index[dependent])

    def failed(self, id: str) -> None:
        reason = self.reason(id)
        self.open.discard(id)
        self.summary.failed[id] = reason
        self.emit("failed", id, reason)
        for dependent in self.needed_by.get(id, ()):
            self.block(dependent, f"needs {self.runs[self.index[id]].name} ({id}), which failed")

    def block(self, id: str, why: str) -> None:
        if id not in self.open:
            return
        self.open.discard(id)
        self.summary.blocked[id] = why
        self.emit("blocked", id, why)
        for dependent in self.needed_by.get(id, ()):
            self.block(dependent, f"needs {self.runs[self.index[id]].name} ({id}), which is blocked")

    def reason(self, id: str) -> str:
        folder = self.store.folder(id)
        failures = folder.failures()
        last = failures[-1] if failures else {"error": "no failure is on record"}
        tried = UNMENDED if folder.failed_for_good() else f"{len(failures)} of {self.retries + 1} attempts"
        return f"{last['error']} ({tried}); log: {folder.log_path}"

    def start_ready(self) -> None:
        """Fill the slots, in the order of the runs."""
        while self.ready and self.engine.free:
            run = self.runs[heapq.heappop(self.ready)]
            state = self.store.folder(run.id).state(self.retries)
            if state in (State.MISSING, State.WAITING):
                self.store.folder(run.id).create(run)
                self.engine.submit([run.id])
                self.emit("started", run.id)
            else:
                self.look(run.id, state)

    def look(self, id: str, state: State) -> None:
        """Place a run that is not executed here by its state."""
        if state is not State.RUNNING:
            self.elsewhere.discard(id)
        elif id not in self.elsewhere:
            self.elsewhere.add(id)
            self.emit("elsewhere", id)
        if state is State.DONE:
            self.done(id)
        elif state is State.FAILED:
            self.failed(id)
        elif state is not State.RUNNING:
            heapq.heappush(self.ready, self.index[id])

    def look_elsewhere(self) -> None:
        """Once a tick: what became of the runs that others execute."""
        if self.elsewhere and time.monotonic() - self.looked >= TICK:
            self.looked = time.monotonic()
            for id, state in self.store.states(sorted(self.elsewhere), self.retries).items():
                self.look(id, state)

    def judge(self, attempt: Attempt) -> None:
        """A process ended: believe the folder; record what a process that was killed could not."""
        id = attempt.run.id
        folder = self.store.folder(id)
        self.summary.taken_over += attempt.inherits and attempt.status != TAKEN
        if folder.summary() is not None:
            self.done(id, attempt.seconds if attempt.status == 0 else 0.0)
        elif attempt.status in (TAKEN, STOPPED) or attempt.stopped:
            number = leases.number_of(folder.path, attempt.pid, attempt.before)
            if number is not None:
                leases.mark_released(folder.path, number)
            self.emit("elsewhere" if attempt.status == TAKEN else "stopped", id)
            self.elsewhere.add(id)
            self.looked = time.monotonic()  # not at once: who has it may be about to say so
        else:
            record_failure(self.store, attempt)
            state = folder.state(self.retries)
            if state in (State.MISSING, State.WAITING):
                self.emit("retry", id, self.reason(id))
            self.look(id, state)

    def tick(self) -> None:
        if time.monotonic() - self.ticked >= TICK:
            self.ticked = time.monotonic()
            self.observer(Event("tick"))


def record_failure(store: Store, attempt: Attempt) -> None:
    """See to it that a failed attempt is on record and its lease is free; nothing if somebody else has the run."""
    folder = store.folder(attempt.run.id)
    number = leases.number_of(folder.path, attempt.pid, attempt.before)
    if number is None:  # it died before it claimed; the failure needs a number of its own
        lease = folder.claim()
        if lease is None:
            return
        number = lease.number
    if all(failure["attempt"] != number for failure in folder.failures()):
        tail = _tail(folder.log_path)
        info = {"exit": attempt.status, "error": _error(attempt, tail), "traceback": tail}
        folder.fail({**info, "log": str(folder.log_path)}, number)
    leases.mark_released(folder.path, number)


def _error(attempt: Attempt, log: str) -> str:
    if attempt.expired:
        return f"took longer than {attempt.deadline - attempt.started:.0f} s"
    if attempt.status == 0:
        return "ended without finishing the run"
    if attempt.status > 0:
        return f"exit code {attempt.status}: {_last_line(log)}"
    name = signal.Signals(-attempt.status).name
    return f"killed by {name}" + (" (often: out of memory)" if name == "SIGKILL" else "")


def _last_line(log: str) -> str:
    lines = log.strip().splitlines()
    return lines[-1][:200] if lines else "it said nothing"


def _tail(log: Path) -> str:
    try:
        with open(log, "rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL))
            return file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""


def _loop(launch: _Launch, interrupts: Interrupts) -> str:
    """Until every run is settled, or what stopped it."""
    stopped = ""
    while launch.open and not stopped:
        launch.start_ready()
        for attempt in launch.engine.wait(TICK if launch.open else 0):
            launch.judge(attempt)
        launch.look_elsewhere()
        launch.tick()
        stopped = interrupts.name or ("cancel" if launch.store.cancelled_since(launch.began) else "")
    if stopped:
        launch.observer(Event("stopping", detail=stopped))
        launch.engine.cancel()
        while launch.engine.alive():
            if interrupts.count > 1:
                launch.engine.kill()
            for attempt in launch.engine.wait(TICK):
                launch.judge(attempt)
            launch.tick()
    return stopped


def run_local(
    store: Store,
    runs: Sequence[Run],
    *,
    jobs: int,
    retries: int,
    make_job: Callable[[Run, Slot], Mapping[str, Any]],
    target: str,
    gpus: Sequence[str] = (),
    jobs_per_gpu: int = 1,
    modules: Sequence[str] = (),
    hook: str | None = None,
    argument: object = None,
    timeout: float | None = None,
    observer: Observer = lambda event: None,
) -> Summary:
    """Execute what is not done yet, inputs before what needs them, until all is settled or something stops it.

    Each process calls `target` ("module:function") with what `make_job` gives (JSON), in a server that has `modules`
    imported and `hook`(`argument`) called; it claims the run and leaves with 0, `TAKEN`, `STOPPED`, or a failure. A
    run that failed is tried again up to `retries` times in all. `timeout`: seconds an attempt may take.

    Raises OSError if the sweep folder cannot be written, `ForkServerDied` if the server cannot be started; every
    process has ended then.
    """
    began = time.monotonic()
    by_id = {run.id: run for run in runs}
    slots = make_slots(jobs, gpus, jobs_per_gpu)
    with Interrupts() as interrupts:
        engine = LocalSlots(
            store, by_id, slots, make_job, lambda: ForkServer(target, modules, hook, argument), timeout, interrupts
        )
        try:
            launch = _Launch(store, runs, retries, engine, observer)
            launch.survey()
            stopped = _loop(launch, interrupts)
        finally:
            engine.close()
    summary = launch.summary
    summary.stopped, summary.elapsed = stopped, time.monotonic() - began
    summary.left = [run.id for run in runs if run.id in launch.open]
    summary.executed, summary.processes = engine.executed, engine.most + 2
    return summary
