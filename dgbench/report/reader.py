"""Read a sweep folder of dgbench into `Results`: its plan, and the records of its finished runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dgbench.core.collector import without_collector
from dgbench.core.halving import Spent, spent
from dgbench.core.plain import fields_of
from dgbench.core.protocol import View
from dgbench.core.run import evaluated_views
from dgbench.core.wording import group_values
from dgbench.data.facts import length_and_network
from dgbench.plan.planfile import PlannedRun, PlanTable, read_plan
from dgbench.report.origin import Kind, Origin, started_of
from dgbench.report.predictions.kept import KeptPredictions
from dgbench.report.results import Candidate, Gap, Results, Series, Spot
from dgbench.store.folder import Store
from dgbench.store.run_folder import RECORDS
from dgbench.store.sealed import CorruptFile
from dgbench.store.state import State
from dgbench.store.verified import forget


def read_results(root: Path | str, *, all_metrics: bool = False) -> Results:
    """Read a sweep folder of dgbench.

    Args:
        root: The folder.
        all_metrics: Whether to keep every metric of the records in `Series.others`; tables need the data set's alone.

    Raises:
        UserError: The folder holds no sweep, or its plan can't be read.
    """
    root = Path(root)
    with without_collector():
        return _Reader(root, read_plan(root), all_metrics).read()


class _Reader:
    """Reader of one sweep folder of dgbench, with its findings so far."""

    def __init__(self, root: Path, table: PlanTable, all_metrics: bool) -> None:
        self.root, self.table, self.all_metrics = root, table, all_metrics
        self.store = Store(root)
        self.dropped = self.store.dropped()
        """Id -> the rung at which the search dropped it."""
        self.made: dict[str, int] = {}
        """Id -> steps made, of training runs that ended."""
        self.notes: list[str] = []
        self.records = 0
        names = table.datasets
        self.origin = Origin({name: Counter() for name in names}, networks={name: Counter() for name in names})
        self.views: dict[tuple[int, int], tuple[tuple[View, ...], list[str]]] = {}
        """(Fold, trial) -> the evaluated views, and their names in records."""
        self.steps: dict[tuple[int, ...], tuple[int, ...]] = {}
        """Each increasing series of steps once: most runs share one."""
        self.sizes: dict[tuple[int, ...], tuple[int, ...]] = {}
        """Each series of sizes once."""
        self.versions: dict[tuple[tuple[str, Any], ...], str] = {}
        """(Name, version) of Python and the libraries -> the same in words."""
        self.kinds: dict[Kind, Kind] = {}
        """Each kind of machine once."""

    def read(self) -> Results:
        """Read every planned run once, finished ones first."""
        # Rows share runs: each is read once, for all predictors that some row needs of it.
        cells = (*self.table.cells.values(), *self.table.repeats.values(), *self.table.curves.values())
        needed = group_values(dict.fromkeys(pair for cell in cells for pair in cell))
        found: dict[tuple[int, str], Candidate] = {}
        undone = []
        for position, predictors in needed.items():
            candidates = self._finished(position, predictors)
            if candidates is None:
                undone.append(position)
            else:
                for name, candidate in candidates.items():
                    found[position, name] = candidate
        ended = [position for position in undone if self.table.runs[position].id not in self.dropped]
        for position, gap in self._unfinished(ended):
            found.update({(position, name): gap for name in needed[position]})
        return self._results(found)

    def _results(self, found: Mapping[tuple[int, str], Candidate]) -> Results:
        """Arrange candidates by (run's position, predictor) as the rows of the plan need them."""
        table = self.table
        folds: dict[str, dict[int, None]] = {name: {} for name in table.datasets}
        for (_, dataset), cell in table.cells.items():
            folds[dataset].update(dict.fromkeys(table.runs[position].fold for position, _ in cell))
        repeats: dict[str, dict[tuple[str, str], dict[Spot, dict[int, Candidate]]]] = {}
        for (row, dataset, selector), cell in table.repeats.items():
            repeats.setdefault(selector, {})[row, dataset] = self._spots(cell, found)
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
            candidates={place: self._spots(cell, found) for place, cell in table.cells.items()},
            repeats=repeats,
            curves={place: self._points(cell, found) for place, cell in table.curves.items()},
            metrics={name: facts.metric for name, facts in table.datasets.items() if facts.metric != "accuracy"},
            missing_classes={name: facts.missing_classes for name, facts in table.datasets.items()},
            records=self.records,
            search=dict(self._searches()),
            members={row: "-".join(map(str, sorted({min(n), max(n)}))) for row, n in members.items()},
            pooled=self._rows_with(lambda run: _pools(table, run)),
            adapted=self._rows_with(lambda run: run.kind == "adapt"),
            provenance=table.provenance,
            origin=self.origin,
            notes=tuple(self.notes),
            kept=KeptPredictions(self.root),
            setting=fields_of(table.setting),
            settings={
                name: length_and_network(table.setting_on(name), facts) for name, facts in table.datasets.items()
            },
            facts=table.datasets,
        )

    def _spots(
        self, cell: Iterable[tuple[int, str]], found: Mapping[tuple[int, str], Candidate]
    ) -> dict[Spot, dict[int, Candidate]]:
        """Arrange the candidates of a cell by fold and trial, then by hyperparameter seed."""
        spots: dict[Spot, dict[int, Candidate]] = {}
        for position, predictor in cell:
            run = self.table.runs[position]
            spot = spots.setdefault((run.fold, run.trial), {})
            if (position, predictor) in found:
                spot[run.hparams_seed] = found[position, predictor]
        return spots

    def _points(
        self, cell: Iterable[tuple[int, str]], found: Mapping[tuple[int, str], Candidate]
    ) -> tuple[tuple[Spot, Candidate], ...]:
        """Return (fold, trial) and candidate of each draw of members."""
        runs = self.table.runs
        return tuple(((runs[p].fold, runs[p].trial), found[p, name]) for p, name in cell if (p, name) in found)

    def _searches(self) -> Iterator[tuple[tuple[str, str], tuple[Spent, ...]]]:
        """Yield (row, data set) -> the budget that its search has spent."""
        for place, cell in self.table.cells.items():
            if brackets := self.store.search.of(self.table.runs[position].id for position, _ in cell):
                standing = [self.store.folder(run) for bracket in brackets for run in bracket.runs]
                made = {folder.id: max(folder.scores(), default=-1) + 1 for folder in standing}
                yield place, tuple(spent(brackets, {**made, **self.made}))

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
        store = self.store
        # No retries: what has failed is a failure, though a launch might try again. Thorough: `finished` found no
        # `done`, other files may be damaged nevertheless.
        states = store.states((self.table.runs[position].id for position in positions), retries=0, thorough=True)
        for position in positions:
            id = self.table.runs[position].id
            why = ""
            if states[id] is State.DAMAGED:
                why = store.damage(id)
            elif states[id] is State.FAILED:
                why = " ".join(str(store.folder(id).failures()[-1]["error"]).split())
            elif states[id] is State.DONE:  # finished since `_finished` looked
                states[id] = State.RUNNING
            yield position, self._gap(position, states[id].value, why)

    def _finished(self, position: int, predictors: Iterable[str]) -> Mapping[str, Candidate] | None:
        """Return predictor -> candidate from a run's records, or None if the run isn't finished."""
        run = self.table.runs[position]
        folder = self.store.folder(run.id)
        try:
            found = folder.finished(self.dropped.get(run.id))
        except CorruptFile as error:
            forget(self.root)  # `status` and `launch` shall find it too
            return dict.fromkeys(predictors, self._gap(position, "damaged", str(error)))
        if found is None:
            return None
        summary, records, torn = found
        if torn:
            self.notes.append(f"{folder.path / RECORDS}: {torn} torn lines, cut off")
        # `finished` has compared the records' sha256 with `done`: from here on they count.
        self.records += len(records)
        self.origin.fingerprints[run.dataset][summary["fingerprint"]] += 1
        pairs = tuple(summary["versions"].items())
        if (versions := self.versions.get(pairs)) is None:
            versions = self.versions[pairs] = ", ".join(f"{name} {v}" for name, v in pairs)
        self.origin.versions[versions] += 1
        self.origin.commits[summary["commit"]] += 1
        kind = Kind(str(summary.get("machine", "")), versions)
        kind = self.kinds.setdefault(kind, kind)
        if kind.hardware:
            self.origin.machines[kind.hardware] += 1
        self.origin.networks[run.dataset][started_of(summary)] += 1
        for name, source in summary["sources"].items():
            self.origin.sources.setdefault(name, Counter())[source] += 1
        self.made[run.id] = records[-1]["step"] + 1 if records else 0
        candidates = {name: self._series(position, name, records, kind) for name in predictors}
        return {name: candidate for name, candidate in candidates.items() if candidate}

    def _series(
        self, position: int, predictor: str, records: Sequence[Mapping[str, Any]], kind: Kind
    ) -> Candidate | None:
        """Return the series of one predictor, or a gap that says why its records can't be used.

        None stands for a predictor of a dropped run that would have come at its end.
        """
        run = self.table.runs[position]
        if (run.fold, run.trial) not in self.views:
            views = evaluated_views(self.table.folds[run.fold], run.trial)
            self.views[run.fold, run.trial] = views, [str(view) for view in views]
        views, names = self.views[run.fold, run.trial]
        try:
            own_records = [record for record in records if record["predictor"] == predictor]
            steps = tuple(record["step"] for record in own_records)
            metric = self.table.datasets[run.dataset].metric
            scores = [record["views"] for record in own_records]
            rows = [[found[name][metric] for name in names] for found in scores]
            values = np.array(rows, dtype=np.float64)  # JSON's null, for NaN and infinity, becomes NaN
            ordered = steps in self.steps or all(earlier < later for earlier, later in pairwise(steps))
            diverged = bool(own_records) and _diverged(own_records[-1], metric)
            along = _along(own_records, names) if self.all_metrics else None
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            return self._gap(position, "damaged", f"{type(error).__name__} in its records: {error}")
        if not own_records and run.id in self.dropped:
            return None
        if not own_records:
            return self._gap(position, "damaged", f"it finished without a record of {predictor}")
        if not ordered:
            return self._gap(position, "damaged", f"the steps of {predictor} don't increase")
        others = _other_metrics(own_records, names, metric) if self.all_metrics else {}
        steps, adapted = self.steps.setdefault(steps, steps), run.kind == "adapt"
        sizes = _sizes(own_records[-1], names) if metric == "accuracy" else ()
        sizes = self.sizes.setdefault(sizes, sizes)
        return Series(run.id, steps, views, values, diverged, adapted, predictor, sizes, others, kind, along)


def _other_metrics(
    records: Sequence[Mapping[str, Any]], views: Sequence[str], metric: str
) -> dict[str, NDArray[np.float64]]:
    """Return each further metric of some records -> its values, (records, views), NaN where a record lacks it."""
    shape = len(records), len(views)
    scores = [found[view] for found in (record["views"] for record in records) for view in views]
    names = (name for name in scores[-1] if name not in (metric, "n"))
    return {name: np.array([s.get(name) for s in scores], dtype=np.float64).reshape(shape) for name in names}


def _along(records: Sequence[Mapping[str, Any]], views: Sequence[str]) -> NDArray[np.float64] | None:
    """Return the accuracy along the streams of records, (records, views, parts); None if they hold none."""
    if not records or "along" not in records[-1]:
        return None
    found = [[record["along"][view] for view in views] for record in records]
    shape = len(found), len(views), max(len(parts) for own in found for parts in own)
    values = np.full(shape, np.nan)
    for i, own in enumerate(found):
        for j, parts in enumerate(own):
            values[i, j, : len(parts)] = parts
    return values


def _sizes(record: Mapping[str, Any], views: Sequence[str]) -> tuple[int, ...]:
    """Return the number of examples of each view; empty if the record doesn't hold them."""
    found = tuple(record["views"][view].get("n") for view in views)
    return found if all(isinstance(n, int) and n > 0 for n in found) else ()


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
