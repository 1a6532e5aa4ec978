"""Turn requests into a plan: all runs that a sweep needs, and the predictors that may stand in each cell of its tables.

A launch reaches this module as follows. `asking` makes a `Declaration` from flags and sweep files: rows, data sets, a
protocol, seeds and trials, a setting. `data.facts` opens the data sets and notes their facts. `plan` then refuses what
can't be done (`refusals`, `unseen`) and builds the runs. `planfile` writes the result to the sweep's folder, and
`launchers.reconcile` executes the runs that the folder lacks. Planning depends on its arguments alone: the same request
gives the same runs, with the same ids, on any machine.

Rows share runs. `ERM`, `ERM+SWAD` and `ERM+T3A` all stand on the same ERM run for each (data set, fold, trial,
hyperparameter seed): averages watch that training together, and mergers and adapters read its models. The planner
therefore works in this order: collect the grid of cells over all requests (`_grid`); find out which averages watch each
algorithm (`_watch`), since they are part of a run and of its id; then, for each cell, make the training runs that don't
exist yet (`_trained`), and let `derived` build merge, adapt and analyze runs on them. An average that changes the
training it watches can't share a run and gets its own, and so does one with values of its own, as in
`SWAD:tolerance_ratio=0.2`. A distilling algorithm's runs read the runs of its teacher's row, which are made by the same
functions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple, TypeAlias

from dgbench.catalogue.catalogue import Catalogue
from dgbench.catalogue.rows import Row, is_ensemble, runs_alone, teacher_rows
from dgbench.core.collector import without_collector
from dgbench.core.errors import Problems, UserError
from dgbench.core.halving import Bracket
from dgbench.core.protocol import Fold
from dgbench.core.run import Input, ResolvedEntry, Run
from dgbench.core.setting import Setting
from dgbench.core.wording import group_values
from dgbench.data.facts import DatasetFacts, resolve_setting
from dgbench.plan.brackets import bracket_of, complete, unfit_for_halving
from dgbench.plan.derived import DerivedRuns, PlannedPredictor, Trained, TrainedRun
from dgbench.plan.plan import Plan
from dgbench.plan.provenance import Provenance
from dgbench.plan.refusals import refuse, refuse_too_many
from dgbench.plan.request import Overrides, Request, Resolve, Values, setting_below, setting_of
from dgbench.plan.unseen import seen_before


class Drawn(NamedTuple):
    """A draw of hyperparameters."""

    seed: int
    """The hyperparameter seed."""
    trial: int
    """The trial whose draw it is: that of the run, unless the run repeats a choice."""


Spots: TypeAlias = Mapping[tuple[Fold, int], tuple[Drawn, ...]]
"""(fold, trial) -> draws."""


class PlannedSpot(NamedTuple):
    """A place in the grid: a row has one training run in it for each draw of hyperparameters."""

    dataset: str
    setting: Setting
    """The data set's setting, resolved; for a teacher, with the teacher's network."""
    fold: Fold
    trial: int
    draws: tuple[Drawn, ...]


@without_collector()
def plan(
    requests: Sequence[Request],
    facts: Mapping[str, DatasetFacts],
    settings: Mapping[str, Setting],
    catalogue: Catalogue,
    overrides: Mapping[str, Overrides] | None = None,
    *,
    halving: bool = False,
) -> Plan:
    """Plan all runs of a sweep: the union of its requests.

    Args:
        requests: The launches, planned as if they had been one.
        facts: Data set -> its facts, for every data set of the requests.
        settings: Data set -> the setting of its runs, before the data set fills it in.
        catalogue: Holds the entries that the rows are made of.
        overrides: Data set -> changes to hyperparameters; None: none.
        halving: Whether the worse draws are dropped on the way.

    Raises:
        UserError: Something can't be done; the message lists all problems.
    """
    settings = {name: resolve_setting(settings[name], fact) for name, fact in facts.items()}
    changes = overrides or {}
    refuse_too_many(requests, facts, settings)

    @cache
    def values(kind: str, name: str, dataset: str, setting: Setting) -> Resolve:
        own = changes.get(dataset, Overrides())
        return own.resolver(catalogue.get(kind, name), facts[dataset], setting)

    problems, planned = Problems(), None
    with problems.collecting():
        refuse(requests, facts, settings, catalogue, values)
    for problem in unfit_for_halving(requests, settings, catalogue) if halving else ():
        problems.add(problem)
    # Once something is refused, a failure to build the plan has the same cause and would say it in worse words. It is
    # still tried: rows may evaluate examples that were trained on, which belongs in the same message.
    with problems.collecting() if not problems.found else suppress(UserError):
        # No training or merging depends on the stream, so none of their runs holds it.
        plain = {name: _without_stream(setting) for name, setting in settings.items()}
        streams = {name: setting.stream for name, setting in settings.items()}
        runs: list[Run] = []
        derived = DerivedRuns(catalogue, values, streams, runs)
        planned = _Planner(requests, facts, plain, catalogue, values, halving, derived, runs).plan()
        filled = (*planned.candidates.items(), *planned.repeats.items(), *planned.curves.items())
        cells = ((str(row), made.run) for (row, *_), cell in filled for made in cell)
        problems.found += seen_before(planned.runs, cells, facts)
    problems.raise_if_any()
    assert planned, "a plan without problems"
    return planned


def _without_stream(setting: Setting) -> Setting:
    # Settings that differ in nothing stay one object, because values are looked up by them.
    return dataclasses.replace(setting, stream="") if setting.stream else setting


@dataclass
class _Planner:
    """State shared by the steps of `plan`: the inputs, and the runs made so far."""

    requests: Sequence[Request]
    facts: Mapping[str, DatasetFacts]
    settings: Mapping[str, Setting]
    """Data set -> its setting, resolved, without the stream."""
    catalogue: Catalogue
    values: Values
    halving: bool
    """Whether the worse draws are dropped on the way."""
    derived: DerivedRuns
    """Makes the runs that train nothing."""
    runs: list[Run]
    """All runs, each after its inputs; `derived` adds to it too."""
    trained: dict[tuple[object, ...], dict[Drawn, Run]] = field(default_factory=dict)
    """All that the training runs of an algorithm in one fold and trial share -> draw -> the run."""
    entries: dict[tuple[object, ...], Sequence[tuple[Drawn, ResolvedEntry, tuple[ResolvedEntry, ...]]]] = field(
        default_factory=dict
    )
    """What `_entries` returned, by what it was asked."""
    watching: dict[tuple[str, str, str], set[str]] = field(default_factory=dict)
    """(data set, algorithm, backbone) -> averages that watch its runs."""
    brackets: dict[tuple[str, ...], Bracket] = field(default_factory=dict)
    """Ids of the training runs that compete -> their bracket: rows share them as they share runs."""

    def plan(self) -> Plan:
        """Build the plan, in the order that the module's docstring describes."""
        by_selector = group_values((asked.repeats.selector, asked) for asked in self.requests if asked.repeats)
        search = self._grid(asked for asked in self.requests if not asked.repeats)
        again = {selector: self._grid(requests) for selector, requests in by_selector.items()}
        taught = self._watch([*search.items(), *(place for grid in again.values() for place in grid.items())])
        candidates = dict(self._cells(search, halving=self.halving))
        repeats = {(*place, selector): cell for selector, grid in again.items() for place, cell in self._cells(grid)}
        curves = dict(self._curves(search))
        analyses = self._analyses([search, *again.values()])
        # A repeated default is the same run as the search's in that trial.
        runs = _inputs_first({run.id: run for run in self.runs}.values())
        return Plan(
            runs=runs,
            rows=tuple(dict.fromkeys(row.measured.name for request in self.requests for row in request.rows)),
            datasets={name: self.facts[name] for request in self.requests for name in request.datasets},
            candidates=candidates,
            repeats=repeats,
            curves=curves,
            analyses=analyses,
            provenance=Provenance(
                {
                    row.measured.name: what
                    for request in self.requests
                    for row in request.rows
                    if (what := self._shown(row))
                },
                taught,
            ),
            brackets=complete(self.brackets.values(), runs, (made.run for cell in repeats.values() for made in cell)),
        )

    def _shown(self, row: Row) -> str:
        """Return the held-out data that a row's predictors see besides the input to predict; empty: none."""
        if row.adapter:
            return "the inputs before it, unlabelled"
        card = self.catalogue.get("algorithm", row.algorithm).card
        return "the inputs predicted with it, unlabelled" if card.transductive else ""

    def _cells(
        self, grid: Mapping[tuple[Row, str], Spots], *, halving: bool = False
    ) -> Iterator[tuple[tuple[str, str], tuple[PlannedPredictor, ...]]]:
        """Yield (name of the row, data set) -> the predictors of that cell; make the runs that are new.

        The rows are those of tables: an analysis measures the predictors of its row.
        """
        for (row, dataset), spots in grid.items():
            if not row.analysis:
                trained = self._trained_in(row, dataset, spots, halving=halving)
                yield (row.name, dataset), self.derived.predictors(row, trained)

    def _curves(
        self, grid: Mapping[tuple[Row, str], Spots]
    ) -> Iterator[tuple[tuple[str, str, int], tuple[PlannedPredictor, ...]]]:
        """Yield (name of the row, data set, number of members) -> the predictors merged from so many of its runs."""
        for (row, dataset), spots in grid.items():
            asked = [request for request in self.requests if row in request.rows and dataset in request.datasets]
            numbers = sorted({number for request in asked for number in request.members})
            if numbers and not row.analysis and self.derived.joins(row):
                trained = self._trained_in(row, dataset, spots)
                for number in numbers:
                    yield (row.name, dataset, number), self.derived.point_of_curve(row, trained, number)

    def _analyses(
        self, grids: Iterable[Mapping[tuple[Row, str], Spots]]
    ) -> dict[tuple[str, str, str], tuple[Run, ...]]:
        """Return (row, data set, analysis) -> the runs that measure the row's predictors; make those.

        The rows of one request that are compared with each other stand there as one, `ERM, SAM`.
        """
        found: dict[tuple[str, str, str], dict[str, Run]] = {}
        for (row, dataset), spots in (place for grid in grids for place in grid.items()):
            if row.analysis and not self._compares(row):
                measured = self.derived.predictors(row.measured, self._trained_in(row.measured, dataset, spots))
                runs = found.setdefault((row.measured.name, dataset, row.analysis), {})
                runs |= {run.id: run for run in self.derived.analyses(row.analysis, measured)}
        for request in (request for request in self.requests if any(map(self._compares, request.rows))):
            grid = self._grid([request])
            compared = group_values(
                ((dataset, row.analysis), row.measured) for row, dataset in grid if self._compares(row)
            )
            for (dataset, analysis), rows in compared.items():
                trained = [self._trained_in(row, dataset, grid[row, dataset]) for row in rows]
                measured_rows = list(map(self.derived.predictors, rows, trained))
                runs = found.setdefault((", ".join(row.name for row in rows), dataset, analysis), {})
                runs |= {run.id: run for run in self.derived.analyses_across(analysis, measured_rows)}
        return {place: tuple(runs.values()) for place, runs in found.items()}

    def _trained_in(self, row: Row, dataset: str, spots: Spots, *, halving: bool = False) -> Trained:
        """Return all training runs of a row on a data set; note their brackets if they compete."""
        found = {}
        for (fold, trial), draws in spots.items():
            runs = self._trained(row, PlannedSpot(dataset, self.settings[dataset], fold, trial, draws))
            found[fold, trial] = runs
            if halving:
                bracket = bracket_of([trained.run for trained in runs])
                self.brackets.setdefault(bracket.runs, bracket)
        return found

    def _grid(self, requests: Iterable[Request]) -> dict[tuple[Row, str], Spots]:
        """Return (row, data set) -> (fold, trial) -> draws, over some requests, each once."""
        grid: dict[tuple[Row, str], dict[tuple[Fold, int], dict[Drawn, None]]] = {}
        for request in requests:
            for dataset in request.datasets:
                folds = self.facts[dataset].folds(request.protocol)
                for row in dict.fromkeys(part for asked in request.rows for part in (asked.measured, asked)):
                    spots = grid.setdefault((row, dataset), {})
                    for trial in request.trials:
                        draws = dict.fromkeys(Drawn(seed, request.drawn_in(trial)) for seed in request.hparams_seeds)
                        for fold in folds:
                            spots.setdefault((fold, trial), {}).update(draws)
        return {key: {spot: tuple(sorted(draws)) for spot, draws in spots.items()} for key, spots in grid.items()}

    def _below(self, row: Row, dataset: str, drawn: Drawn) -> list[tuple[Row, Setting]]:
        """Return the rows of the teachers of one training run, each with its setting; empty for most algorithms."""
        hparams = self.values("algorithm", row.algorithm, dataset, self.settings[dataset])(*drawn).hparams
        return [
            (below, setting_below(hparams, self.facts[dataset], self.settings[dataset]))
            for below in teacher_rows(row.algorithm, hparams, self.catalogue)
        ]

    def _watch(self, grid: Sequence[tuple[tuple[Row, str], Spots]]) -> dict[str, str]:
        """Collect the averages that watch each algorithm's runs together: all but those that have runs of their own.

        Returns:
            Row -> the rows that teach it, in words, each with its network where that is another.
        """
        taught: dict[str, dict[str, None]] = {}
        for (row, dataset), spots in grid:
            own = self.settings[dataset]
            draws = sorted({drawn for draws in spots.values() for drawn in draws})
            teachers = dict.fromkeys(found for drawn in draws for found in self._below(row, dataset, drawn))
            # A teacher's row may name an average too. If its algorithm is also a row of the sweep, on the same network,
            # the two share their runs, so averages are collected for both together.
            for watched, setting in ((row, own), *teachers):
                watching = self.watching.setdefault(self._watched(watched, dataset, setting.backbone), set())
                if watched.average and not self._alone(watched.average):
                    watching.add(watched.average)
            for teacher, setting in teachers:
                network = "" if setting.backbone == own.backbone else f" with {setting.backbone}"
                taught.setdefault(row.name, {})[teacher.name + network] = None
        return {name: " or ".join(teachers) for name, teachers in taught.items()}

    def _trained(self, row: Row, spot: PlannedSpot) -> list[TrainedRun]:
        """Return a row's training runs in one fold and trial, one for each draw; make those that are new."""
        dataset, backbone = spot.dataset, spot.setting.backbone
        own = row.average if self._alone(row.average) else ""
        # Sorted, because averages are part of the run's id: the order of flags must not make a new run.
        averages = (own,) if own else tuple(sorted(self.watching[self._watched(row, dataset, backbone)]))
        shared = (row.algorithm, dataset, backbone, spot.fold, spot.trial, own)
        made = self.trained.setdefault(shared, {})
        card = self.catalogue.get("algorithm", row.algorithm).card
        setting, found = setting_of(card, spot.setting), []
        # What never learns is the same in every draw.
        draws = spot.draws if card.learns else spot.draws[:1]
        for drawn, method, watching in self._entries(row.algorithm, averages, spot, draws):
            if (run := made.get(drawn)) is None:
                run = made[drawn] = Run(
                    kind="train",
                    method=method,
                    dataset=dataset,
                    fold=spot.fold,
                    hparams_seed=drawn.seed,
                    trial=spot.trial,
                    setting=setting,
                    averages=watching,
                    inputs=tuple(self._inputs(row, spot, drawn)) if card.taught else (),
                )
                self.runs.append(run)
            found.append(TrainedRun(run, drawn.trial))
        return found

    def _entries(
        self, algorithm: str, averages: tuple[str, ...], spot: PlannedSpot, draws: tuple[Drawn, ...]
    ) -> Sequence[tuple[Drawn, ResolvedEntry, tuple[ResolvedEntry, ...]]]:
        """Return (draw, algorithm, averages that watch it) with their values; folds share them."""
        place = (algorithm, averages, spot.dataset, spot.setting, draws)
        if place not in self.entries:
            of_algorithm = self.values("algorithm", algorithm, spot.dataset, spot.setting)
            of_averages = [self.values("average", name, spot.dataset, spot.setting) for name in averages]
            self.entries[place] = [
                (drawn, of_algorithm(*drawn), tuple(resolve(*drawn) for resolve in of_averages)) for drawn in draws
            ]
        return self.entries[place]

    def _inputs(self, row: Row, spot: PlannedSpot, drawn: Drawn) -> Iterator[Input]:
        """Yield the models that a training run reads: the candidates of its teacher's row.

        The run chooses one of them by itself. Of an ensemble it takes all members together.
        """
        for below, setting in self._below(row, spot.dataset, drawn):
            trained = self._trained(below, spot._replace(setting=setting))
            members = dataclasses.replace(below, merger="") if is_ensemble(below, self.catalogue) else below
            yield from (predictor.source for predictor in self.derived.of_pool(members, spot.trial, trained))

    def _compares(self, row: Row) -> bool:
        """Return whether a row has an analysis that compares rows with each other."""
        return bool(row.analysis) and bool(self.catalogue.get("analysis", row.analysis).card.takes == "rows")

    def _alone(self, average: str) -> bool:
        """Return whether an average has runs of its own: it changes the training, or another may have its name."""
        return bool(average) and runs_alone(self.catalogue.get("average", average))

    def _watched(self, row: Row, dataset: str, backbone: str) -> tuple[str, str, str]:
        """Return the key of `watching` of a row's runs, which values of the algorithm leave as it is."""
        return dataset, self.catalogue.get("algorithm", row.algorithm).name, backbone


def _inputs_first(runs: Collection[Run]) -> tuple[Run, ...]:
    """Sort runs by their distance from runs without inputs; within one distance their order stays.

    Runs of equal distance don't depend on each other, so a launch that follows this order seldom has to wait.
    """
    level: dict[str, int] = {}
    later = [run for run in runs if run.inputs]
    for run in later:
        level[run.id] = 1 + max(level.get(source.run, 0) for source in run.inputs)
    return (*(run for run in runs if not run.inputs), *sorted(later, key=lambda run: level[run.id]))
