"""Read a sweep folder into the form in which selection and tables see it: `Results`.

A table has a row for each method and a column for each fold. `plan.json` says which predictors each cell needs, the run
folders say what was measured of them. `read_results` joins the two into `Results.candidates`:

    (row, data set) -> (fold, trial) -> hyperparameter seed -> Series | Gap

Every planned predictor has an entry. It is a `Series`, with the values at each evaluated step, if the run is done and
its files are what was written; else it is a `Gap`, which says what became of the run. So an incomplete sweep can't pass
for a complete one: selectors (`report.select`) choose among the candidates of one (fold, trial) and hand on the gaps,
and tables (`report.tables`) name them.

Values keep the unit of the record: accuracies lie in [0, 1] until a table multiplies them by 100. `report.domainbed`
reads folders of DomainBed into the same `Results`, so all that follows is the same for both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dgbench.core.plain import fields_of
from dgbench.core.protocol import Fold, View
from dgbench.core.run import ALL_TRIALS, BEST, LAST, MODEL, evaluated_views
from dgbench.core.setting import Setting
from dgbench.core.wording import group_values
from dgbench.data.facts import DatasetFacts, length_and_network
from dgbench.plan.planfile import PlannedRun, PlanTable, read_plan
from dgbench.plan.provenance import Provenance
from dgbench.report.origin import Origin, started_of
from dgbench.report.predictions.kept import KeptPredictions
from dgbench.store.folder import Store
from dgbench.store.run_folder import RECORDS, RunFolder, State
from dgbench.store.sealed import CorruptFile


@dataclass(frozen=True, slots=True)
class Series:
    """One predictor of a finished run, with its values at the steps at which it was evaluated."""

    run: str
    """The run's id; of DomainBed's runs, the name of the folder."""
    steps: tuple[int, ...]
    """The evaluated steps, strictly increasing."""
    views: tuple[View, ...]
    """The evaluated views: the columns of `values`."""
    values: NDArray[np.float64]
    """(steps, views), of the data set's metric; accuracies are in [0, 1]. NaN where the model diverged."""
    diverged: bool = False
    """Whether the last record has a loss or metric that is NaN or infinite.

    The run counts nevertheless: its predictions are as good as chance, and a metric that is NaN counts as the worst
    value.
    """
    adapted: bool = False
    """Whether its models are adapted from another run's best and last, in this order, or from one that is both."""
    predictor: str = MODEL
    """Name of the predictor: `MODEL`, or that of an average."""
    others: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    """Further metric, `loss` among them -> (steps, views). Empty unless `read_results` was asked for all metrics."""

    @property
    def places(self) -> Mapping[int | str, int]:
        """Return key -> row of `values`, where the key identifies corresponding models in runs of other folds.

        The key is the step; for adapted models it is `BEST` or `LAST`, since the best step differs from fold to fold.
        """
        if self.adapted:
            return {BEST: 0, LAST: len(self.steps) - 1}
        return {step: place for place, step in enumerate(self.steps)}

    def mean(self, views: Sequence[View]) -> NDArray[np.float64]:
        """Return the unweighted mean over `views` at each step, (steps,), summed in the order of `views`."""
        places = [self.views.index(view) for view in views]
        # Indexing columns gives column-major order, in which NumPy sums rows differently. DomainBed's np.mean over a
        # list sums as a contiguous row does, and the last digit may decide between steps that tie.
        means: NDArray[np.float64] = np.ascontiguousarray(self.values[:, places]).mean(axis=1)
        return means


@dataclass(frozen=True, slots=True)
class Gap:
    """A planned predictor without a result. It never enters a number; tables list it."""

    run: str
    """The run's id, or the name of its folder; empty if the run is not known."""
    method: str
    """The run's algorithm, merger or adapter."""
    dataset: str
    held_out: tuple[str, ...]
    hparams_seed: int
    trial: int
    state: str
    """`missing`, `waiting`, `running`, `failed`, `unfinished`, `damaged` or `without kept predictions`."""
    why: str = ""
    """The error of a run that failed or is damaged; else empty."""


WARNING = "WARNING: "
"""Prefix of those notes that advise against comparing the runs of a table."""

Candidate: TypeAlias = Series | Gap
"""A predictor that a selector may choose, if it is there."""
Spot: TypeAlias = tuple[int, int]
"""Index of a fold in `Results.folds`, and a trial: `ALL_TRIALS` for rows that merge runs of all trials."""


@dataclass(frozen=True)
class Results:
    """The results of a sweep of dgbench or DomainBed, complete or not, as selection and tables see them.

    Made by `read_results` or `domainbed.reader.read_sweep`. Every predictor that the sweep should have is among
    `candidates`.
    """

    protocol: str
    """Name of the protocol."""
    preset: str
    """Name of the preset; `DomainBed's own` for DomainBed's folders."""
    ddof: int
    """Degrees of freedom subtracted in the standard deviation over trials, as in `numpy.std`."""
    rows: tuple[str, ...]
    """Rows, in the order of the tables."""
    datasets: Mapping[str, tuple[int, ...]]
    """Data set -> indices of its folds, in the order of the tables."""
    folds: tuple[Fold, ...]
    """Folds of all data sets; elsewhere a fold is named by its index."""
    candidates: Mapping[tuple[str, str], Mapping[Spot, Mapping[int, Candidate]]]
    """(row, data set) -> (fold, trial) -> hyperparameter seed -> candidate."""
    records: int = 0
    """Number of records of finished runs."""
    members: Mapping[str, str] = field(default_factory=dict)
    """Row -> number of runs that its models are merged from, `5` or `3-5`, for rows that merge."""
    pooled: frozenset[str] = frozenset()
    """Rows whose models are merged over hyperparameter seeds, so that none is left to choose."""
    adapted: frozenset[str] = frozenset()
    """Rows whose runs adapt the best and the last model of another run."""
    provenance: Provenance = field(default_factory=Provenance)
    """How rows differ from plain models of the preset."""
    origin: Origin = field(default_factory=Origin)
    """The data, code and hardware behind the runs that count."""
    notes: tuple[str, ...] = ()
    """Findings in the folder that a reader of the tables needs, such as torn lines."""
    metrics: Mapping[str, str] = field(default_factory=dict)
    """Data set -> name of its metric, where that is not accuracy."""
    missing_classes: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)
    """Data set -> domain -> classes without an example in it, on which it neither trains nor is scored."""
    setting: Mapping[str, Any] = field(default_factory=dict)
    """Field of the sweep's `Setting` -> value; empty for DomainBed's folders."""
    settings: Mapping[str, Setting] = field(default_factory=dict)
    """Data set -> the setting with its steps and network; of DomainBed's, if all its runs share them."""
    facts: Mapping[str, DatasetFacts] = field(default_factory=dict)
    """Data set -> what the plan knows of it; empty for DomainBed's folders."""
    folders: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Folder -> its rows, for results that `folders.combine` made of several; else empty."""
    kept: KeptPredictions = field(default_factory=KeptPredictions, repr=False, compare=False)
    """The predictions that runs keep; none of DomainBed's."""
    choices: dict[tuple[str, str, str, int, int], Any] = field(default_factory=dict, init=False, repr=False)
    """(selector, row, data set, fold, trial) -> its `select.Outcome`, of those that were asked for so far."""

    def metric(self, dataset: str) -> str:
        """Return the name of a data set's metric."""
        return self.metrics.get(dataset, "accuracy")

    def at(self, row: str, dataset: str, spot: Spot) -> Mapping[int, Candidate]:
        """Return hyperparameter seed -> candidate of a row at a spot; empty if none was planned."""
        return self.candidates.get((row, dataset), {}).get(spot, {})

    def reported(self, dataset: str) -> tuple[int, ...]:
        """Return the folds that are columns of tables: those with the fewest held-out domains.

        Folds that hold out more serve leave-one-domain-out selection only.
        """
        positions = self.datasets[dataset]
        fewest = min(len(self.folds[position].held_out) for position in positions)
        return tuple(position for position in positions if len(self.folds[position].held_out) == fewest)

    def untested(self, dataset: str) -> tuple[str, ...]:
        """Return the domains that train or validate in some column and are tested in none."""
        folds = [self.folds[position] for position in self.reported(dataset)]
        tested = {view.domain for fold in folds for view in fold.test}
        others = (view.domain for fold in folds for view in (*fold.train, *fold.target_val))
        return tuple(dict.fromkeys(domain for domain in others if domain not in tested))

    def pairs(self, dataset: str, position: int) -> tuple[tuple[View, int], ...]:
        """Return the (view, fold) pairs that leave-one-domain-out selection reads for a fold.

        Args:
            dataset: The fold's data set.
            position: The fold.

        Returns:
            For each training domain its test view, and the fold that holds it out together with the fold's own test
            domain. Empty if one of these folds is not planned, or this fold holds out several domains.
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
        """Return whether a row has one model for all trials, so that nothing is selected and no error estimated."""
        spots = (spot for dataset in datasets for spot in self.candidates.get((row, dataset), {}))
        return any(trial == ALL_TRIALS for _, trial in spots)


def read_results(root: Path | str, *, all_metrics: bool = False) -> Results:
    """Read a sweep folder of dgbench.

    Args:
        root: The folder.
        all_metrics: Whether to keep every metric of the records in `Series.others`; tables need the data set's alone.

    Raises:
        UserError: The folder holds no sweep, or its plan can't be read.
    """
    root = Path(root)
    return _Reader(root, read_plan(root), all_metrics).read()


class _Reader:
    """Reader of one sweep folder of dgbench, with its findings so far."""

    def __init__(self, root: Path, table: PlanTable, all_metrics: bool) -> None:
        self.root, self.table, self.all_metrics = root, table, all_metrics
        self.notes: list[str] = []
        self.records = 0
        names = table.datasets
        self.origin = Origin({name: Counter() for name in names}, networks={name: Counter() for name in names})
        self.steps: dict[tuple[int, ...], tuple[int, ...]] = {}
        """Each series of steps once: most runs share one."""

    def read(self) -> Results:
        """Read every planned run once, finished ones first."""
        # Rows share runs: each is read once, for all predictors that some row needs of it.
        needed = group_values(dict.fromkeys(pair for cell in self.table.cells.values() for pair in cell))
        found: dict[tuple[int, str], Candidate] = {}
        undone = []
        for position, predictors in needed.items():
            candidates = self._finished(position, predictors)
            if candidates is None:
                undone.append(position)
            else:
                found.update({(position, name): candidate for name, candidate in candidates.items()})
        for position, gap in self._unfinished(undone):
            found.update({(position, name): gap for name in needed[position]})
        return self._results(found)

    def _results(self, found: Mapping[tuple[int, str], Candidate]) -> Results:
        """Arrange candidates by (run's position, predictor) as the rows of the plan need them."""
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
            (row, n) for (row, _), cell in table.cells.items() for i, _ in cell if (n := _count_members(table, i))
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
            kept=KeptPredictions(self.root),
            setting=fields_of(table.setting),
            settings={name: length_and_network(table.setting, facts) for name, facts in table.datasets.items()},
            facts=table.datasets,
        )

    def _rows_with(self, holds: Callable[[PlannedRun], bool]) -> frozenset[str]:
        """Return the rows of which some run satisfies a condition."""
        runs = self.table.runs
        return frozenset(row for (row, _), cell in self.table.cells.items() if any(holds(runs[i]) for i, _ in cell))

    def _gap(self, position: int, state: str, why: str = "") -> Gap:
        """Make the gap of a planned run."""
        run = self.table.runs[position]
        held_out = self.table.folds[run.fold].held_out
        return Gap(run.id, run.method, run.dataset, held_out, run.hparams_seed, run.trial, state, why)

    def _unfinished(self, positions: Sequence[int]) -> Iterable[tuple[int, Gap]]:
        """Yield (position, gap) for runs that aren't done, each with its state and reason."""
        store = Store(self.root)
        # No retries: what has failed is a failure, though a launch might try again. Thorough: `finished` found no
        # `done`, other files may be damaged nevertheless.
        states = store.states((self.table.runs[position].id for position in positions), retries=0, thorough=True)
        for position in positions:
            id = self.table.runs[position].id
            why = ""
            if states[id] is State.DAMAGED:
                why = store.folder(id).damage()
            elif states[id] is State.FAILED:
                why = " ".join(str(store.folder(id).failures()[-1]["error"]).split())
            elif states[id] is State.DONE:  # finished since `_finished` looked
                states[id] = State.RUNNING
            yield position, self._gap(position, states[id].value, why)

    def _finished(self, position: int, predictors: Iterable[str]) -> Mapping[str, Candidate] | None:
        """Return predictor -> candidate from a run's records, or None if the run isn't finished."""
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
        # `finished` has compared the records' sha256 with `done`: from here on they count.
        self.records += len(records)
        self.origin.fingerprints[run.dataset][summary["fingerprint"]] += 1
        self.origin.versions[", ".join(f"{name} {v}" for name, v in summary["versions"].items())] += 1
        self.origin.commits[summary["commit"]] += 1
        if machine := summary.get("machine"):
            self.origin.machines[str(machine)] += 1
        self.origin.networks[run.dataset][started_of(summary)] += 1
        for name, source in summary["sources"].items():
            self.origin.sources.setdefault(name, Counter())[source] += 1
        return {name: self._series(position, name, records) for name in predictors}

    def _series(self, position: int, predictor: str, records: Sequence[Mapping[str, Any]]) -> Candidate:
        """Return the series of one predictor, or a gap that says why its records can't be used."""
        run = self.table.runs[position]
        views = evaluated_views(self.table.folds[run.fold], run.trial)
        names = [str(view) for view in views]
        try:
            own_records = [record for record in records if record["predictor"] == predictor]
            steps = tuple(record["step"] for record in own_records)
            metric = self.table.datasets[run.dataset].metric
            rows = [[record["views"][name][metric] for name in names] for record in own_records]
            values = np.array(rows, dtype=np.float64)  # JSON's null, for NaN and infinity, becomes NaN
            ordered = all(earlier < later for earlier, later in pairwise(steps))
            diverged = bool(own_records) and _diverged(own_records[-1], metric)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            return self._gap(position, "damaged", f"{type(error).__name__} in its records: {error}")
        if not own_records:
            return self._gap(position, "damaged", f"it finished without a record of {predictor}")
        if not ordered:
            return self._gap(position, "damaged", f"the steps of {predictor} don't increase")
        others = _other_metrics(own_records, names, metric) if self.all_metrics else {}
        steps, adapted = self.steps.setdefault(steps, steps), run.kind == "adapt"
        return Series(run.id, steps, views, values, diverged, adapted, predictor, others)


def _other_metrics(
    records: Sequence[Mapping[str, Any]], views: Sequence[str], metric: str
) -> dict[str, NDArray[np.float64]]:
    """Return each further metric of some records -> its values, (records, views), NaN where a record lacks it."""
    scores = [[record["views"][view] for view in views] for record in records]
    names = (name for name in scores[-1][-1] if name not in (metric, "n"))
    return {name: np.array([[s.get(name) for s in line] for line in scores], dtype=np.float64) for name in names}


def _diverged(record: Mapping[str, Any], metric: str) -> bool:
    """Return whether a record has a loss or metric that is NaN or infinite, which JSON holds as null."""
    return any(scores.get(what, 0.0) is None for scores in record["views"].values() for what in ("loss", metric))


def _pools(table: PlanTable, run: PlannedRun) -> bool:
    """Return whether a run's model, or the one it adapts, is merged from runs of other hyperparameter seeds."""
    if run.kind == "adapt":
        return _pools(table, table.runs[run.inputs[0]])
    return run.kind == "merge" and {table.runs[i].hparams_seed for i in run.inputs} != {run.hparams_seed}


def _count_members(table: PlanTable, position: int) -> int:
    """Return the number of runs that a run's model, or the one it adapts, is merged from; 0 if it isn't merged."""
    run = table.runs[position]
    if run.kind == "adapt":
        return _count_members(table, run.inputs[0])
    return len(run.inputs) if run.kind == "merge" else 0
