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
exist yet (`_trained`) and derive merge and adapt runs from them (`_candidates`). An average that changes the training
it watches can't share a run and gets its own. A distilling algorithm's runs read the runs of its teacher's row, which
are made by the same functions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Literal, NamedTuple, TypeAlias

from dgbench.catalogue.catalogue import Catalogue
from dgbench.catalogue.rows import Row, is_ensemble, teacher_rows
from dgbench.core.errors import Problems, UserError
from dgbench.core.protocol import Fold
from dgbench.core.run import ALL_TRIALS, MODEL, Input, ResolvedEntry, Run
from dgbench.core.setting import Setting
from dgbench.data.facts import DatasetFacts, resolve_setting
from dgbench.plan.provenance import Provenance
from dgbench.plan.refusals import refuse, refuse_too_many
from dgbench.plan.request import Overrides, Request, Values, setting_below
from dgbench.plan.unseen import seen_before


@dataclass(frozen=True)
class PlannedPredictor:
    """A predictor that a selector may choose for a cell of a table."""

    run: Run
    """The run that yields it."""
    predictor: str
    """Its name in that run: `MODEL`, or an average."""

    @property
    def source(self) -> Input:
        """This predictor as an input of another run."""
        return Input(self.run.id, self.predictor)


@dataclass(frozen=True)
class Plan:
    """Everything that a sweep should hold, made by `plan`; it says nothing about which runs exist."""

    runs: tuple[Run, ...]
    """All runs, each after its inputs."""
    rows: tuple[str, ...]
    """Names of the tables' rows, in the order of the requests."""
    datasets: Mapping[str, DatasetFacts]
    """Data set -> its facts."""
    candidates: Mapping[tuple[str, str], tuple[PlannedPredictor, ...]]
    """(row, data set) -> the predictors to choose among, over all folds, trials and hyperparameter seeds."""
    provenance: Provenance = field(default_factory=Provenance)
    """Facts about the rows that tables print beside their numbers."""

    @cached_property
    def read_by_others(self) -> Mapping[str, Mapping[str, frozenset[str]]]:
        """Run id -> predictor -> its models (`run.BEST`, `run.LAST`) that other runs read and that must be kept."""
        read: dict[str, dict[str, frozenset[str]]] = {}
        for run in self.runs:
            for source in run.inputs:
                models = read.setdefault(source.run, {})
                models[source.predictor] = models.get(source.predictor, frozenset()).union(run.reads)
        return read


Spots: TypeAlias = Mapping[tuple[Fold, int], Sequence[int]]
"""(fold, trial) -> hyperparameter seeds."""


class PlannedSpot(NamedTuple):
    """A place in the grid: a row has one training run in it for each hyperparameter seed."""

    dataset: str
    setting: Setting
    """The data set's setting, resolved; for a teacher, with the teacher's network."""
    fold: Fold
    trial: int
    seeds: Sequence[int]


def plan(
    requests: Sequence[Request],
    facts: Mapping[str, DatasetFacts],
    setting: Setting,
    catalogue: Catalogue,
    overrides: Overrides | None = None,
) -> Plan:
    """Plan all runs of a sweep: the union of its requests.

    Args:
        requests: The launches, planned as if they had been one.
        facts: Data set -> its facts, for every data set of the requests.
        setting: The sweep's setting, before data sets fill it in.
        catalogue: Holds the entries that the rows are made of.
        overrides: Changes to hyperparameters; None: none.

    Raises:
        UserError: Something can't be done; the message lists all problems.
    """
    settings = {name: resolve_setting(setting, fact) for name, fact in facts.items()}
    changes = overrides or Overrides()
    refuse_too_many(requests, facts, settings)

    # Refusals, teachers and runs all ask for the same draws, most of them many times.
    @lru_cache(maxsize=100_000)
    def values(kind: str, name: str, dataset: str, setting: Setting, seed: int, trial: int) -> ResolvedEntry:
        return changes.resolve(catalogue.get(kind, name), facts[dataset], setting, seed, trial)

    problems, planned = Problems(), None
    with problems.collecting():
        refuse(requests, facts, settings, catalogue, values)
    # Once something is refused, a failure to build the plan has the same cause and would say it in worse words. It is
    # still tried: rows may evaluate examples that were trained on, which belongs in the same message.
    with problems.collecting() if not problems.found else suppress(UserError):
        planned = _Planner(requests, facts, settings, catalogue, values).plan()
        cells = ((row, made.run) for (row, _), cell in planned.candidates.items() for made in cell)
        problems.found += seen_before(planned.runs, cells, facts)
    problems.raise_if_any()
    assert planned, "a plan without problems"
    return planned


@dataclass
class _Planner:
    """State shared by the steps of `plan`: the inputs, and the runs made so far."""

    requests: Sequence[Request]
    facts: Mapping[str, DatasetFacts]
    settings: Mapping[str, Setting]
    """Data set -> its setting, resolved."""
    catalogue: Catalogue
    values: Values
    runs: dict[tuple[object, ...], Run] = field(default_factory=dict)
    """Everything that distinguishes a run, without hashing it -> the run; each run comes after its inputs."""
    folds: dict[Fold, int] = field(default_factory=dict)
    """Fold -> a number that stands for it in the keys of `runs`, because a fold is slow to hash."""
    watching: dict[tuple[str, str, str], set[str]] = field(default_factory=dict)
    """(data set, algorithm, backbone) -> averages that watch its runs."""

    def plan(self) -> Plan:
        """Build the plan, in the order that the module's docstring describes."""
        grid = self._grid()
        taught = self._watch(grid)
        candidates: dict[tuple[str, str], list[PlannedPredictor]] = {}
        for (row, dataset), spots in grid.items():
            all_trials = row.merger and self.catalogue.get("merger", row.merger).card.all_trials
            together: dict[tuple[Fold, int], list[Run]] = {}
            for (fold, trial), seeds in spots.items():
                trained = self._trained(row, PlannedSpot(dataset, self.settings[dataset], fold, trial, seeds))
                together.setdefault((fold, ALL_TRIALS if all_trials else trial), []).extend(trained)
            cell = candidates.setdefault((row.name, dataset), [])
            for (_, trial), trained in together.items():
                cell += self._candidates(row, trial, trained)
        return Plan(
            runs=_inputs_first(self.runs.values()),
            rows=tuple(dict.fromkeys(row.name for request in self.requests for row in request.rows)),
            datasets={name: self.facts[name] for request in self.requests for name in request.datasets},
            candidates={key: tuple(cell) for key, cell in candidates.items()},
            provenance=Provenance(
                {row.name: what for request in self.requests for row in request.rows if (what := self._shown(row))},
                taught,
            ),
        )

    def _shown(self, row: Row) -> str:
        """Return the held-out data that a row's predictors see besides the input to predict; empty: none."""
        if row.adapter:
            return "the inputs before it, unlabelled"
        card = self.catalogue.get("algorithm", row.algorithm).card
        return "the inputs predicted with it, unlabelled" if card.transductive else ""

    def _grid(self) -> dict[tuple[Row, str], dict[tuple[Fold, int], list[int]]]:
        """Return (row, data set) -> (fold, trial) -> hyperparameter seeds, over all requests, each once."""
        grid: dict[tuple[Row, str], dict[tuple[Fold, int], dict[int, None]]] = {}
        for request in self.requests:
            for dataset in request.datasets:
                folds = self.facts[dataset].folds(request.protocol)
                for row in request.rows:
                    spots = grid.setdefault((row, dataset), {})
                    for trial in request.trials:
                        for fold in folds:
                            spots.setdefault((fold, trial), {}).update(dict.fromkeys(request.hparams_seeds))
        return {key: {spot: sorted(seeds) for spot, seeds in spots.items()} for key, spots in grid.items()}

    def _below(self, row: Row, dataset: str, seed: int, trial: int) -> list[tuple[Row, Setting]]:
        """Return the rows of the teachers of one training run, each with its setting; empty for most algorithms."""
        hparams = self.values("algorithm", row.algorithm, dataset, self.settings[dataset], seed, trial).hparams
        return [
            (below, setting_below(hparams, self.facts[dataset], self.settings[dataset]))
            for below in teacher_rows(row.algorithm, hparams, self.catalogue)
        ]

    def _watch(self, grid: Mapping[tuple[Row, str], Spots]) -> dict[str, str]:
        """Collect the averages that watch each algorithm's runs together: all but those that feed back.

        Returns:
            Row -> the rows that teach it, in words, each with its network where that is another.
        """
        taught: dict[str, dict[str, None]] = {}
        for (row, dataset), spots in grid.items():
            own = self.settings[dataset]
            draws = sorted({(seed, trial) for (_, trial), seeds in spots.items() for seed in seeds})
            teachers = dict.fromkeys(found for draw in draws for found in self._below(row, dataset, *draw))
            # A teacher's row may name an average too. If its algorithm is also a row of the sweep, on the same network,
            # the two share their runs, so averages are collected for both together.
            for watched, setting in ((row, own), *teachers):
                watching = self.watching.setdefault((dataset, watched.algorithm, setting.backbone), set())
                if watched.average and not self._feeds_back(watched.average):
                    watching.add(watched.average)
            for teacher, setting in teachers:
                network = "" if setting.backbone == own.backbone else f" with {setting.backbone}"
                taught.setdefault(row.name, {})[teacher.name + network] = None
        return {name: " or ".join(teachers) for name, teachers in taught.items()}

    def _trained(self, row: Row, spot: PlannedSpot) -> list[Run]:
        """Return a row's training runs in one fold and trial, one for each hyperparameter seed; make the new ones."""
        dataset, backbone = spot.dataset, spot.setting.backbone
        own = row.average if self._feeds_back(row.average) else ""
        # Sorted, because averages are part of the run's id: the order of flags must not make a new run.
        averages = (own,) if own else tuple(sorted(self.watching[dataset, row.algorithm, backbone]))
        number = self.folds.setdefault(spot.fold, len(self.folds))
        found = []
        for seed in spot.seeds:
            key = (row.algorithm, dataset, backbone, number, spot.trial, own, seed)
            if key not in self.runs:
                self.runs[key] = Run(
                    kind="train",
                    method=self.values("algorithm", row.algorithm, dataset, spot.setting, seed, spot.trial),
                    dataset=dataset,
                    fold=spot.fold,
                    hparams_seed=seed,
                    trial=spot.trial,
                    setting=spot.setting,
                    averages=tuple(
                        self.values("average", name, dataset, spot.setting, seed, spot.trial) for name in averages
                    ),
                    inputs=tuple(self._inputs(row, spot, seed)),
                )
            found.append(self.runs[key])
        return found

    def _inputs(self, row: Row, spot: PlannedSpot, seed: int) -> Iterator[Input]:
        """Yield the models that a training run reads: the candidates of its teacher's row.

        The run chooses one of them by itself. Of an ensemble it takes all members together.
        """
        for below, setting in self._below(row, spot.dataset, seed, spot.trial):
            trained = self._trained(below, spot._replace(setting=setting))
            members = dataclasses.replace(below, merger="") if is_ensemble(below, self.catalogue) else below
            yield from (candidate.source for candidate in self._candidates(members, spot.trial, trained))

    def _candidates(self, row: Row, trial: int, trained: Sequence[Run]) -> list[PlannedPredictor]:
        """Return the predictors of a row in one fold and trial; make the merge and adapt runs that are new.

        Args:
            row: The row.
            trial: The trial, or `ALL_TRIALS`.
            trained: The training runs of all hyperparameter seeds.
        """
        found = [PlannedPredictor(run, row.average or MODEL) for run in trained]
        if row.merger and self.catalogue.get("merger", row.merger).card.each:
            found = [self._derive("merge", row.merger, base.run, [base]) for base in found]
        elif row.merger:
            # A merger of runs of several hyperparameter seeds belongs to none of them. It takes the number 0, and the
            # first run only lends what is the same for all: data set, fold and setting.
            found = [
                self._derive("merge", row.merger, dataclasses.replace(trained[0], hparams_seed=0, trial=trial), found)
            ]
        if row.adapter:
            found = [self._derive("adapt", row.adapter, base.run, [base]) for base in found]
        return found

    def _derive(
        self, kind: Literal["merge", "adapt"], method: str, base: Run, sources: Sequence[PlannedPredictor]
    ) -> PlannedPredictor:
        """Return the run that merges or adapts `sources`, made if it is new; other fields are those of `base`."""
        inputs = tuple(candidate.source for candidate in sources)
        # The inputs' ids stand for all else: fold, trial, setting and the members' hyperparameters.
        key = (kind, method, base.dataset, inputs)
        if key not in self.runs:
            entry_kind = "merger" if kind == "merge" else "adapter"
            part = self.values(entry_kind, method, base.dataset, base.setting, base.hparams_seed, base.trial)
            self.runs[key] = dataclasses.replace(base, kind=kind, method=part, averages=(), inputs=inputs)
        return PlannedPredictor(self.runs[key], MODEL)

    def _feeds_back(self, average: str) -> bool:
        return bool(average) and bool(self.catalogue.get("average", average).card.feeds_back)


def _inputs_first(runs: Iterable[Run]) -> tuple[Run, ...]:
    """Sort runs by their distance from runs without inputs; within one distance their order stays.

    Runs of equal distance don't depend on each other, so a launch that follows this order seldom has to wait.
    """
    level: dict[str, int] = {}
    for run in runs:
        level[run.id] = max((level[source.run] + 1 for source in run.inputs), default=0)
    return tuple(sorted(runs, key=lambda run: level[run.id]))
