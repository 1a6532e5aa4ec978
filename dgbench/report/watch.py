"""Read how far each run of a sweep is, again and again: its state, steps with their speed, machine, failure.

Everything is read from the sweep's folder, so it may be watched from any machine that sees the folder.
`report.picture` shows it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from dgbench.core.wording import group_values
from dgbench.data.facts import length_and_network
from dgbench.plan.planfile import PlannedRun, read_plan
from dgbench.report.signs import retries_of
from dgbench.store.folder import Store
from dgbench.store.run_folder import RunFolder
from dgbench.store.state import State

OPEN = (State.MISSING, State.WAITING, State.RUNNING)
"""States of runs without an outcome."""


@dataclass(frozen=True)
class RunStatus:
    """The state of one planned run, read from its folder by `look`."""

    id: str
    name: str
    kind: str
    """`train`, `merge` or `adapt`."""
    algorithm: str
    """Name of its algorithm, merger or adapter."""
    dataset: str
    held_out: tuple[str, ...]
    """The domains that it doesn't train on."""
    trial: int
    hparams_seed: int
    state: str
    """A value of `State`."""
    step: int | None
    """Steps made, a few seconds old; all of them if it is done, None if unknown."""
    steps: int | None
    """Steps in all, None if unknown."""
    share: float
    """The part of all steps that it will have made at its end: below 1 where `--search` drops it, or may drop it."""
    speed: float | None
    """Steps a second of a running run; None if unknown."""
    left: float | None
    """Seconds that a running run has to go on, by its speed and `share`; None if unknown."""
    host: str
    """Machine of the newest attempt; empty before the first."""
    engine: str
    """Task of a cluster that made it, such as `slurm:12_3`; empty if none."""
    sign: float | None
    """Time of its last sign of life, in seconds since 1970; None before the first attempt."""
    seconds: float | None
    """Seconds that a run which is done or dropped was executed, over all attempts; None if unknown."""
    failure: str
    """First line of the error of a run that failed, or of the damage; else empty."""
    log: str
    """Path of the log of all attempts; empty if there is none yet."""

    def to_json(self) -> dict[str, Any]:
        """Return all fields."""
        return asdict(self)


class Watch:
    """A sweep that is looked at again and again; knows the speed of running runs from one look to the next."""

    def __init__(self, root: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Open a sweep's folder.

        Args:
            root: The folder.
            clock: Returns seconds, of which only differences count.

        Raises:
            UserError: It holds no sweep.
        """
        self.table, self.store, self._clock = read_plan(root), Store(root), clock
        self._retries = retries_of(root)
        self._lengths = {
            name: length_and_network(self.table.setting_on(name), facts).steps
            for name, facts in self.table.datasets.items()
        }
        self._seen: dict[str, tuple[int, float]] = {}
        """Running run -> its step and the time at the look in which it had newly been reached."""
        self._speeds: dict[str, float] = {}
        self._durations: dict[str, float | None] = {}
        """Finished run -> seconds of its last attempt."""

    def look(self, *, thorough: bool = False) -> list[RunStatus]:
        """Return the state of every planned run.

        Args:
            thorough: Whether files of finished runs are read and compared with their hashes, which finds damage and
                takes time.
        """
        states = self.store.states((run.id for run in self.table.runs), self._retries, thorough=thorough)
        outlooks = self.store.outlooks(states)
        shares = {id: outlook.goal for id, outlook in outlooks.items()}
        found = [self._status(run, states[run.id], shares.get(run.id, 1.0)) for run in self.table.runs]
        usual = _usual(found)
        return [_with_usual(status, usual) if status.state == State.RUNNING.value else status for status in found]

    def _status(self, run: PlannedRun, state: State, share: float) -> RunStatus:
        """Read the state of one run."""
        folder = self.store.folder(run.id)
        begun = state is not State.MISSING
        holder = folder.holder() if begun else None
        progress = folder.progress() if begun and state is not State.DONE else None
        length = self._lengths[run.dataset] if run.kind == "train" else None
        step, steps = progress or ((length, length) if state is State.DONE else (None, length))
        speed = self._speed(run.id, step) if state is State.RUNNING and step is not None else None
        return RunStatus(
            id=run.id,
            name=self.table.name(run),
            kind=run.kind,
            algorithm=run.method,
            dataset=run.dataset,
            held_out=self.table.folds[run.fold].held_out,
            trial=run.trial,
            hparams_seed=run.hparams_seed,
            state=state.value,
            step=step,
            steps=steps,
            share=share,
            speed=speed,
            left=None,
            host=holder[0].process.host if holder else "",
            engine=holder[0].engine if holder else "",
            sign=holder[1] if holder else None,
            seconds=self._seconds(folder) if state.settled else None,
            failure=_failure(self.store, run.id, state),
            log=str(folder.log_path) if begun and folder.log_path.is_file() else "",
        )

    def _speed(self, id: str, step: int) -> float | None:
        """Return steps a second since the last look in which the run stood at an earlier step."""
        now = self._clock()
        before, since = self._seen.setdefault(id, (step, now))
        if step < before:  # begun anew
            self._seen[id] = (step, now)
            self._speeds.pop(id, None)
        elif step > before and now > since:
            self._speeds[id] = (step - before) / (now - since)
            self._seen[id] = (step, now)
        return self._speeds.get(id)

    def _seconds(self, folder: RunFolder) -> float | None:
        """Return the duration of a finished run, which is read once."""
        if folder.id not in self._durations:
            self._durations[folder.id] = _seconds(folder)
        return self._durations[folder.id]


def _usual(found: Iterable[RunStatus]) -> dict[tuple[str, str], float]:
    """Return (algorithm, data set) -> median steps a second of training runs that have ended."""
    speeds = [
        ((status.algorithm, status.dataset), status.step / status.seconds)
        for status in found
        if status.kind == "train" and status.step and status.seconds
    ]
    return {key: statistics.median(values) for key, values in group_values(speeds).items()}


def _with_usual(status: RunStatus, usual: Mapping[tuple[str, str], float]) -> RunStatus:
    """Return a running run's status with the time left, by its own speed or else that of finished runs like it."""
    speed = status.speed or usual.get((status.algorithm, status.dataset))
    if not speed or status.step is None or status.steps is None:
        return status
    return replace(status, speed=speed, left=max(0.0, status.share * status.steps - status.step) / speed)


def _seconds(folder: RunFolder) -> float | None:
    """Return the seconds that a run was executed, over all attempts; None if they aren't on record."""
    try:
        lines = (folder.path / "times.jsonl").read_bytes().splitlines()
        return sum(float(orjson.loads(line)["seconds"]) for line in lines) or None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _failure(store: Store, id: str, state: State) -> str:
    """Return the first line of the error or damage of a run; empty if it has none."""
    if state is State.DAMAGED:
        return store.damage(id).partition("\n")[0]
    if state is State.FAILED and (failures := store.folder(id).failures()):
        return str(failures[-1]["error"]).strip().partition("\n")[0]
    return ""
