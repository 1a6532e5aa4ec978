"""Turn measured times of some runs into the time of all runs of a sweep. Nothing is measured or read here.

A run's time is its start, its steps, its predictions and its savings. A rehearsal measures these parts of one run; a
finished run tells their sum. Either is scaled to the other runs by the work that their methods' cards declare.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

import numpy as np

from dgbench.core.run import Run
from dgbench.plan.work import Work


class Key(NamedTuple):
    """The values that decide how long a run takes, beside those that its `Work` counts."""

    dataset: str
    backbone: str
    kind: str
    method: str
    averages: tuple[str, ...]

    @property
    def place(self) -> tuple[str, str]:
        """Return data set and network."""
        return self.dataset, self.backbone


def key_of(run: Run) -> Key:
    """Return the key of a run."""
    averages = tuple(average.name for average in run.averages)
    return Key(run.dataset, run.setting.backbone, run.kind, run.method.name, averages)


@dataclass(frozen=True)
class Rehearsal:
    """The times of the parts of one training run, measured with as many runs at once as the sweep has slots."""

    run: Run
    work: Work
    """Of the run, whole."""
    start: float
    """Seconds of a run that does nothing: its process, opening the data, building the network, writing `done`."""
    step: float
    """Seconds of a step."""
    example: float
    """Seconds of predicting and scoring an example."""
    save: float
    """Seconds of writing the records and the checkpoint of an evaluation."""
    norms: float
    """Seconds of measuring batch-norm statistics on a minibatch; 0: no batch norm is live."""
    size: float
    """Bytes of the weights of a model."""
    peak: float = 0.0
    """Most bytes that torch reserved on a GPU; 0: the run computed on the CPU."""


@dataclass(frozen=True)
class _Line:
    """Seconds as a function of work: `base + slope * work`, neither negative."""

    base: float
    slope: float

    def __call__(self, work: float) -> float:
        return self.base + self.slope * work


def _fit(points: Sequence[tuple[float, float]]) -> _Line:
    """Fit a line to (work, seconds); of points with about the same work, one through the origin."""
    work, seconds = np.array(points, dtype=float).T
    if work.max() > 1.2 * work.min():
        from scipy.optimize import nnls  # takes a third of a second to import

        # Relative to the seconds, so that short runs count as much as long ones.
        scale = np.maximum(seconds, 1e-9)
        (base, slope), _ = nnls(np.stack([1 / scale, work / work.mean() / scale], axis=1), seconds / scale)
        return _Line(float(base), float(slope / work.mean()))
    return _Line(0.0, float(seconds.mean() / max(work.mean(), 1e-9)))


def _ratios(line: _Line, points: Mapping[Key, Sequence[tuple[float, float]]]) -> dict[Key, float]:
    """Return for each key how many times longer its runs took than the line says."""
    return {
        key: sum(seconds for _, seconds in found) / max(1e-9, sum(line(work) for work, _ in found))
        for key, found in points.items()
    }


def by_rehearsals(runs: Sequence[tuple[Run, Work]], rehearsals: Sequence[Rehearsal]) -> list[float]:
    """Return the seconds of each run by the rehearsals of its data set and network; without one, by all rehearsals.

    The step of a method that was rehearsed is the measured one, scaled by batch size and domains. That of another
    follows from the passes on its card, by a line through the measured ones: optimizers and bookkeeping don't grow
    with passes.

    Args:
        runs: Runs with their work.
        rehearsals: At least one.
    """
    places: dict[tuple[str, str], list[Rehearsal]] = defaultdict(list)
    for rehearsal in rehearsals:
        places[key_of(rehearsal.run).place].append(rehearsal)
    models = {place: _Model(found) for place, found in places.items()}
    usual = _Model(rehearsals)
    return [models.get(key_of(run).place, usual)(run, work) for run, work in runs]


class _Model:
    """The times of one data set and network, by its rehearsals."""

    def __init__(self, rehearsals: Sequence[Rehearsal]) -> None:
        def mean(part: str) -> float:
            return fmean(float(getattr(rehearsal, part)) for rehearsal in rehearsals)

        self.start, self.example, self.save, self.norms = map(mean, ("start", "example", "save", "norms"))
        points: dict[Key, list[tuple[float, float]]] = defaultdict(list)
        for each in rehearsals:
            points[key_of(each.run)].append((each.work.passes / each.work.steps, each.step))
        self.step = _fit([point for found in points.values() for point in found])
        self.ratios = _ratios(self.step, points)

    def __call__(self, run: Run, work: Work) -> float:
        """Return the seconds of a run."""
        steps = 0.0
        if work.steps:
            steps = work.steps * self.step(work.passes / work.steps) * self.ratios.get(key_of(run), 1.0)
        rest = work.forwards * self.example + work.evaluations * self.save + work.measured * self.norms
        return self.start + steps + rest


def by_finished(runs: Sequence[tuple[Run, Work]], finished: Sequence[tuple[Run, Work, float]]) -> list[float]:
    """Return the seconds of each run by the finished ones.

    Args:
        runs: Runs with their work.
        finished: At least one run with its work and the seconds that it took.
    """
    places: dict[tuple[str, str], dict[Key, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for run, work, seconds in finished:
        places[key_of(run).place][key_of(run)].append((work.all, seconds))
    lines = {place: _fit([point for each in found.values() for point in each]) for place, found in places.items()}
    usual = _fit([(work.all, seconds) for _, work, seconds in finished])
    ratios = {key: ratio for place, found in places.items() for key, ratio in _ratios(lines[place], found).items()}
    return [lines.get(key_of(run).place, usual)(work.all) * ratios.get(key_of(run), 1.0) for run, work in runs]


def makespan(seconds: Sequence[float], slots: int) -> float:
    """Return the time of runs that share slots: their sum over the slots, and at the end a wait for the last ones."""
    if not seconds:
        return 0.0
    # When the last run starts, the other slots are on average half through runs of their own.
    return max(max(seconds), sum(seconds) / slots + (slots - 1) / slots * fmean(seconds) / 2)
