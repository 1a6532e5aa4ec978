"""What selection and tables see of a sweep: for each place of each row, series of values, or why there is none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dgbench.core.protocol import Fold, View
from dgbench.core.run import ALL_TRIALS, BEST, LAST, evaluated_views
from dgbench.core.wording import group_values
from dgbench.plan.planfile import PlannedRun, PlanTable, read_plan
from dgbench.plan.provenance import Provenance
from dgbench.store.folder import RECORDS, RunFolder, State, Store
from dgbench.store.sealed import CorruptFile


@dataclass(frozen=True, slots=True)
class Series:
    """One predictor of a finished run, at each step at which it was evaluated."""

    run: str
    steps: tuple[int, ...]
    """Strictly increasing."""
    views: tuple[View, ...]
    values: NDArray[np.float64]
    """(steps, views), of the data set's metric; accuracies lie between 0 and 1. NaN where a model has diverged."""
    diverged: bool = False
    """Whether it ended with a loss or metric that is no number. It counts: what it predicts is right by chance, and a
    metric that is no number is the worst there is."""
    adapted: bool = False
    """Whether its models are another run's best and last, in this order, or one that is both, as adapted."""

    @property
    def places(self) -> Mapping[int | str, int]:
        """Map the key by which models of other folds are matched (step, or the role of adapted models) to their places.

        Which step was the best differs from fold to fold.
        """
        if self.adapted:
            return {BEST: 0, LAST: len(self.steps) - 1}
        return {step: place for place, step in enumerate(self.steps)}

    def mean(self, views: Sequence[View]) -> NDArray[np.float64]:
        """Mean value over `views` at each step, (steps,), summed in the order of `views`."""
        places = [self.views.index(view) for view in views]
        means: NDArray[np.float64] = np.ascontiguousarray(self.values[:, places]).mean(axis=1)
        return means


@dataclass(frozen=True, slots=True)
class Gap:
    """A predictor that should be there and isn't; never counted, always told."""

    run: str
    """Its id or folder; empty if nobody knows it."""
    method: str
    dataset: str
    held_out: tuple[str, ...]
    hparams_seed: int
    trial: int
    state: str
    """`missing`, `waiting`, `running`, `failed`, `unfinished` or `damaged`."""
    why: str = ""


WARNING = "WARNING: "
"""What notes begin with that speak against comparing the runs of a table."""

Candidate: TypeAlias = Series | Gap
Spot: TypeAlias = tuple[int, int]
"""Where a selector chooses: position of a fold in `Results.folds`, and trial, `ALL_TRIALS` for rows that merge them."""


@dataclass(frozen=True)
class Origin:
    """What made the runs that count, each with its number of runs; empty where a folder doesn't say."""

    fingerprints: Mapping[str, Counter[str]] = field(default_factory=dict)
    """Data set -> fingerprint of its data."""
    versions: Counter[str] = field(default_factory=Counter)
    commits: Counter[str] = field(default_factory=Counter)
    sources: dict[str, Counter[str]] = field(default_factory=dict)
    """Method -> file and hash of it, for methods that the package doesn't hold."""
    machines: Counter[str] = field(default_factory=Counter)
    """Processor with its vector extensions, and GPU; runs of earlier versions don't say."""
    arguments: Mapping[str, Mapping[str, Counter[str]]] = field(default_factory=dict)
    """Data set -> argument -> its values, for folders whose runs may differ in them: no plan says what was asked."""


@dataclass(frozen=True)
class Results:
    """A sweep as selection and tables see it, whether dgbench or DomainBed ran it."""

    protocol: str
    preset: str
    ddof: int
    rows: tuple[str, ...]
    """In the order of the tables, as are the data sets."""
    datasets: Mapping[str, tuple[int, ...]]
    """Data set -> positions of its folds."""
    folds: tuple[Fold, ...]
    candidates: Mapping[tuple[str, str], Mapping[Spot, Mapping[int, Candidate]]]
    """(row, data set) -> spot -> hyperparameter seed -> candidate."""
    records: int = 0
    """Records of finished runs."""
    members: Mapping[str, str] = field(default_factory=dict)
    """Row -> how many runs each of its models is merged from, for rows that merge."""
    pooled: frozenset[str] = frozenset()
    """Rows whose models are merged over hyperparameter seeds, so that none is left to choose."""
    adapted: frozenset[str] = frozenset()
    """Rows whose runs adapt a finished model, the best and the last of another run."""
    provenance: Provenance = field(default_factory=Provenance)
    origin: Origin = field(default_factory=Origin)
    notes: tuple[str, ...] = ()
    """What was found in the folder that a reader of the tables should know."""
    metrics: Mapping[str, str] = field(default_factory=dict)
    """Data set -> what its values are, where that is not accuracy."""
    missing_classes: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)
    """Data set -> domain -> classes of which it has no example, so that it neither trained nor was scored on them."""

    def metric(self, dataset: str) -> str:
        """What the values of a data set are."""
        return self.metrics.get(dataset, "accuracy")

    def at(self, row: str, dataset: str, spot: Spot) -> Mapping[int, Candidate]:
        """The candidates of a row at a spot by hyperparameter seed; empty if none was asked for."""
        return self.candidates.get((row, dataset), {}).get(spot, {})

    def reported(self, dataset: str) -> tuple[int, ...]:
        """The folds that are columns: those with the fewest held-out domains; others serve selection only."""
        positions = self.datasets[dataset]
        fewest = min(len(self.folds[position].held_out) for position in positions)
        return tuple(position for position in positions if len(self.folds[position].held_out) == fewest)

    def untested(self, dataset: str) -> tuple[str, ...]:
        """The domains that train or validate in some column and are tested in none."""
        folds = [self.folds[position] for position in self.reported(dataset)]
        tested = {view.domain for fold in folds for view in fold.test}
        others = (view.domain for fold in folds for view in (*fold.train, *fold.target_val))
        return tuple(dict.fromkeys(domain for domain in others if domain not in tested))

    def pairs(self, dataset: str, position: int) -> tuple[tuple[View, int], ...]:
        """For a fold that holds out one domain, each (test view of another domain, fold that holds out both).

        Empty unless there is such a fold for every training domain.
        """
        fold = self.folds[position]
        if len(fold.held_out) != 1:
            return ()
        by_held_out = {frozenset(self.folds[p].held_out): p for p in self.datasets[dataset]}
        found = []
        for domain in fold.training_domains:
            pair = by_held_out.get(frozenset({*fold.held_out, domain}))
            if pair is None:
                return ()
            found += [(view, pair) for view in self.folds[pair].test if view.domain == domain]
        return tuple(found)

    def of_all_trials(self, row: str, datasets: Iterable[str]) -> bool:
        """Test whether a row has one model of all trials, so that nothing is selected and nothing estimated."""
        spots = (spot for dataset in datasets for spot in self.candidates.get((row, dataset), {}))
        return any(trial == ALL_TRIALS for _, trial in spots)


def read_results(root: Path | str) -> Results:
    """Read the records of a sweep's folder; raises `UserError` if it holds no sweep or its plan can't be read."""
    root = Path(root)
    return _Reader(root, read_plan(root)).read()


class _Reader:
    """Holds what the reading of one sweep collects."""

    def __init__(self, root: Path, table: PlanTable) -> None:
        self.root, self.table = root, table
        self.notes: list[str] = []
        self.records = 0
        self.origin = Origin(fingerprints={name: Counter() for name in table.datasets})
        self.steps: dict[tuple[int, ...], tuple[int, ...]] = {}

    def read(self) -> Results:
        wanted = group_values(dict.fromkeys(pair for cell in self.table.cells.values() for pair in cell))
        found: dict[tuple[int, str], Candidate] = {}
        undone = []
        for position, predictors in wanted.items():
            candidates = self._finished(position, predictors)
            if candidates is None:
                undone.append(position)
            else:
                found.update({(position, name): candidate for name, candidate in candidates.items()})
        for position, gap in self._unfinished(undone):
            found.update({(position, name): gap for name in wanted[position]})
        return self._results(found)

    def _results(self, found: Mapping[tuple[int, str], Candidate]) -> Results:
        table = self.table
        candidates: dict[tuple[str, str], dict[Spot, dict[int, Candidate]]] = {}
        folds: dict[str, dict[int, None]] = {name: {} for name in table.datasets}
        for (row, dataset), cell in table.cells.items():
            spots = candidates.setdefault((row, dataset), {})
            for position, predictor in cell:
                run = table.runs[position]
                folds[dataset][run.fold] = None
                spots.setdefault((run.fold, run.trial), {})[run.hparams_seed] = found[position, predictor]
        members = group_values(
            (row, n) for (row, _), cell in table.cells.items() for i, _ in cell if (n := _merged(table, i))
        )
        return Results(
            protocol=table.protocol,
            preset=table.setting.preset,
            ddof=table.setting.ddof,
            rows=table.rows,
            datasets={name: tuple(positions) for name, positions in folds.items() if positions},
            folds=table.folds,
            candidates=candidates,
            metrics={name: facts.metric for name, facts in table.datasets.items() if facts.metric != "accuracy"},
            missing_classes={name: facts.missing_classes for name, facts in table.datasets.items()},
            records=self.records,
            members={row: "-".join(map(str, sorted({min(n), max(n)}))) for row, n in members.items()},
            pooled=self._rows_with(lambda run: _pools(table, run)),
            adapted=self._rows_with(lambda run: run.kind == "adapt"),
            provenance=table.provenance,
            origin=self.origin,
            notes=tuple(self.notes),
        )

    def _rows_with(self, holds: Callable[[PlannedRun], bool]) -> frozenset[str]:
        runs = self.table.runs
        return frozenset(row for (row, _), cell in self.table.cells.items() if any(holds(runs[i]) for i, _ in cell))

    def _gap(self, position: int, state: str, why: str = "") -> Gap:
        run = self.table.runs[position]
        held_out = self.table.folds[run.fold].held_out
        return Gap(run.id, run.method, run.dataset, held_out, run.hparams_seed, run.trial, state, why)

    def _unfinished(self, positions: Sequence[int]) -> Iterable[tuple[int, Gap]]:
        store = Store(self.root)
        states = store.states((self.table.runs[position].id for position in positions), retries=0, thorough=True)
        for position in positions:
            id = self.table.runs[position].id
            why = ""
            if states[id] is State.DAMAGED:
                why = store.folder(id).damage()
            elif states[id] is State.FAILED:
                why = " ".join(str(store.folder(id).failures()[-1]["error"]).split())
            elif states[id] is State.DONE:  # finished between our look and this one
                states[id] = State.RUNNING
            yield position, self._gap(position, states[id].value, why)

    def _finished(self, position: int, predictors: Iterable[str]) -> Mapping[str, Candidate] | None:
        """What the run's records say of each predictor; None if the run isn't finished."""
        run = self.table.runs[position]
        folder = RunFolder(self.root, run.id)
        try:
            found = folder.finished()
        except CorruptFile as error:
            return dict.fromkeys(predictors, self._gap(position, "damaged", str(error)))
        if found is None:
            return None
        summary, records, torn = found
        if torn:
            self.notes.append(f"{folder.path / RECORDS}: {torn} torn lines, cut off")
        self.records += len(records)
        self.origin.fingerprints[run.dataset][summary["fingerprint"]] += 1
        self.origin.versions[", ".join(f"{name} {v}" for name, v in summary["versions"].items())] += 1
        self.origin.commits[summary["commit"]] += 1
        if machine := summary.get("machine"):
            self.origin.machines[str(machine)] += 1
        for name, source in summary["sources"].items():
            self.origin.sources.setdefault(name, Counter())[source] += 1
        return {name: self._series(position, name, records) for name in predictors}

    def _series(self, position: int, predictor: str, records: Sequence[Mapping[str, Any]]) -> Candidate:
        run = self.table.runs[position]
        views = evaluated_views(self.table.folds[run.fold], run.trial)
        names = [str(view) for view in views]
        try:
            mine = [record for record in records if record["predictor"] == predictor]
            steps = tuple(record["step"] for record in mine)
            metric = self.table.datasets[run.dataset].metric
            rows = [[record["views"][name][metric] for name in names] for record in mine]
            values = np.array(rows, dtype=np.float64)  # null, of what is no number, becomes NaN
            ordered = all(earlier < later for earlier, later in pairwise(steps))
            diverged = bool(mine) and _diverged(mine[-1], metric)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            return self._gap(position, "damaged", f"{type(error).__name__} in its records: {error}")
        if not mine:
            return self._gap(position, "damaged", f"it finished without a record of {predictor}")
        if not ordered:
            return self._gap(position, "damaged", f"the steps of {predictor} don't increase")
        adapted = run.kind == "adapt"
        return Series(run.id, self.steps.setdefault(steps, steps), views, values, diverged, adapted)


def _diverged(record: Mapping[str, Any], metric: str) -> bool:
    """Test whether a record has a loss or metric that is no number, which JSON has as null."""
    return any(scores.get(what, 0.0) is None for scores in record["views"].values() for what in ("loss", metric))


def _pools(table: PlanTable, run: PlannedRun) -> bool:
    """Test whether the model of a run, or the one that it adapts, is merged from runs of other hyperparameter seeds."""
    if run.kind == "adapt":
        return _pools(table, table.runs[run.inputs[0]])
    return run.kind == "merge" and {table.runs[i].hparams_seed for i in run.inputs} != {run.hparams_seed}


def _merged(table: PlanTable, position: int) -> int:
    """How many runs the model of a run is merged from: its own inputs, or those of the run that it adapts."""
    run = table.runs[position]
    if run.kind == "adapt":
        return _merged(table, run.inputs[0])
    return len(run.inputs) if run.kind == "merge" else 0
