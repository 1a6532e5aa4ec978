"""Show how far each cell of a sweep is: counts by state, running steps with their speed, failures with their logs.

Everything is read from the sweep's folder, so it may be watched from any machine that sees the folder.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from dgbench.core.grid import columns
from dgbench.core.wording import format_duration, group_values, printable
from dgbench.data.facts import length_and_network
from dgbench.plan.planfile import PlannedRun, PlanTable, read_plan
from dgbench.report.signs import retries_of
from dgbench.store.folder import Store
from dgbench.store.run_folder import RunFolder, State

INTERVAL = 5.0
"""Seconds between two looks at the folder."""
MOST_LINES = 20
"""Most running or failed runs that are listed."""
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
    speed: float | None
    """Steps a second of a running run; None if unknown."""
    left: float | None
    """Seconds until a running run has made all steps, by its speed; None if unknown."""
    host: str
    """Machine of the newest attempt; empty before the first."""
    engine: str
    """Task of a cluster that made it, such as `slurm:12_3`; empty if none."""
    sign: float | None
    """Time of its last sign of life, in seconds since 1970; None before the first attempt."""
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
            name: length_and_network(self.table.setting, facts).steps for name, facts in self.table.datasets.items()
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
        found = [self._status(run, states[run.id]) for run in self.table.runs]
        usual = self._usual(found)
        return [_with_usual(status, usual) if status.state == State.RUNNING.value else status for status in found]

    def _status(self, run: PlannedRun, state: State) -> RunStatus:
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
            speed=speed,
            left=None,
            host=holder[0].process.host if holder else "",
            engine=holder[0].engine if holder else "",
            sign=holder[1] if holder else None,
            failure=_failure(folder, state),
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

    def _usual(self, found: Iterable[RunStatus]) -> dict[tuple[str, str], float]:
        """Return (algorithm, data set) -> median steps a second of finished training runs."""
        speeds = []
        for status in found:
            if status.kind == "train" and status.state == State.DONE.value and status.steps:
                if status.id not in self._durations:
                    self._durations[status.id] = _seconds(self.store.folder(status.id))
                if seconds := self._durations[status.id]:
                    speeds.append(((status.algorithm, status.dataset), status.steps / seconds))
        return {key: statistics.median(values) for key, values in group_values(speeds).items()}


def _with_usual(status: RunStatus, usual: Mapping[tuple[str, str], float]) -> RunStatus:
    """Return a running run's status with the time left, by its own speed or else that of finished runs like it."""
    speed = status.speed or usual.get((status.algorithm, status.dataset))
    if not speed or status.step is None or status.steps is None:
        return status
    return replace(status, speed=speed, left=(status.steps - status.step) / speed)


def _seconds(folder: RunFolder) -> float | None:
    """Return the duration of a run's last attempt in seconds; None if it isn't on record."""
    try:
        last = (folder.path / "times.jsonl").read_bytes().splitlines()[-1]
        return float(orjson.loads(last)["seconds"])
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return None


def _failure(folder: RunFolder, state: State) -> str:
    """Return the first line of the error or damage of a run; empty if it has none."""
    if state is State.DAMAGED:
        return folder.damage().partition("\n")[0]
    if state is State.FAILED and (failures := folder.failures()):
        return str(failures[-1]["error"]).strip().partition("\n")[0]
    return ""


def lines(table: PlanTable, found: Iterable[RunStatus]) -> Iterator[str]:
    """Yield the printable lines that show a sweep: a grid of cells, then its running and failed runs.

    A cell is a row of the tables on one data set with the same domains held out; rows share runs.
    """
    states = list(found)
    yield from columns(_grid(table, states))
    running = [status for status in states if status.state == State.RUNNING.value]
    failed = [status for status in states if status.state in (State.FAILED.value, State.DAMAGED.value)]
    yield from _first([f"running: {printable(status.name)}: {_pace(status)}" for status in running])
    yield from _first(
        [printable(f"{status.state}: {status.name}: {status.failure} (log: {status.log})") for status in failed]
    )


def _grid(table: PlanTable, found: list[RunStatus]) -> list[list[str]]:
    """Return the cells of the grid as texts, its header first; states without any run have no column."""
    cells: dict[tuple[str, str, str], Counter[str]] = {}
    for (row, dataset, *_), candidates in (*table.cells.items(), *table.repeats.items()):
        for position in dict.fromkeys(position for position, _ in candidates):
            status = found[position]
            key = (row, dataset, "+".join(status.held_out))
            cells.setdefault(key, Counter())[status.state] += 1
    shown = [state.value for state in State if any(counts[state.value] for counts in cells.values())]
    header = ["row", "data set", "held out", *shown]
    return [header, *([*map(printable, key), *(f"{counts[s] or ''}" for s in shown)] for key, counts in cells.items())]


def _pace(status: RunStatus) -> str:
    """Describe how far a running run is."""
    if status.step is None or status.steps is None:
        return f"at work on {status.host}" if status.host else "at work"
    parts = [f"step {status.step:,} of {status.steps:,}"]
    if status.speed:
        parts.append(f"{status.speed:.3g} steps/s")
    if status.left is not None:
        parts.append(f"{format_duration(status.left)} left")
    return ", ".join([*parts, *([status.host] if status.host else [])])


def _first(found: list[str]) -> Iterator[str]:
    """Yield the first lines, then one that counts the others."""
    yield from found[:MOST_LINES]
    if len(found) > MOST_LINES:
        yield f"... and {len(found) - MOST_LINES} more, all of them with --json"


def follow(watch: Watch, show: Callable[[str], None], wait: Callable[[float], None] = time.sleep) -> bool:
    """Show a sweep again and again until no run is left to wait for.

    Args:
        watch: The sweep.
        show: Takes each picture as one text.
        wait: Waits some seconds.

    Returns:
        Whether every run is done; else what is left has failed.
    """
    while True:
        found = watch.look()
        show("\n".join(lines(watch.table, found)))
        left = {State(status.state) for status in found}
        if left.isdisjoint(OPEN):
            return left <= {State.DONE}
        wait(INTERVAL)
