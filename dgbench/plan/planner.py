"""From what was asked for to the runs that answer it. Pure: no files, no torch, the same answer everywhere.

A plan knows three things: the runs, in an order in which each comes after its inputs; for each row of a table the
predictors that may stand in its cells; and which models' weights another run reads.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Literal, NamedTuple, TypeAlias

from dgbench.catalogue.catalogue import Catalogue
from dgbench.catalogue.rows import Row, is_ensemble, stands_on
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
    """A predictor that a selector may pick for a cell: of which run, under which name."""

    run: Run
    predictor: str

    @property
    def source(self) -> Input:
        """Name this predictor as an input of a run that reads it."""
        return Input(self.run.id, self.predictor)


@dataclass(frozen=True)
class Plan:
    """Everything that a sweep should hold."""

    runs: tuple[Run, ...]
    rows: tuple[str, ...]
    datasets: Mapping[str, DatasetFacts]
    candidates: Mapping[tuple[str, str], tuple[PlannedPredictor, ...]]
    """(row, data set) -> candidates over all folds, trials and hyperparameter seeds."""
    provenance: Provenance = field(default_factory=Provenance)

    @cached_property
    def read_by_others(self) -> Mapping[str, Mapping[str, frozenset[str]]]:
        """Run id -> predictor -> which of its models another run reads, so that their weights must be kept."""
        read: dict[str, dict[str, frozenset[str]]] = {}
        for run in self.runs:
            for source in run.inputs:
                models = read.setdefault(source.run, {})
                models[source.predictor] = models.get(source.predictor, frozenset()).union(run.reads)
        return read


Spots: TypeAlias = Mapping[tuple[Fold, int], Sequence[int]]
"""(fold, trial) -> hyperparameter seeds."""


class PlannedSpot(NamedTuple):
    """Where a row has one training run for each hyperparameter seed."""

    dataset: str
    setting: Setting
    """The data set's, resolved; of teachers, with their network."""
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
    """Plan the union of the requests.

    Requests share runs: an algorithm is trained once for all rows that stand on it, watched by all their averages.

    Args:
        requests: The launches, as if they had been one.
        facts: Data set -> its facts, of every data set of the requests.
        setting: The sweep's, before data sets fill it in.
        catalogue: Holds the entries that the rows are made of.
        overrides: Changes to hyperparameters; None: none.

    Raises:
        UserError: Everything that can't be done.
    """
    settings = {name: resolve_setting(setting, fact) for name, fact in facts.items()}
    changes = overrides or Overrides()
    refuse_too_many(requests, facts, settings)

    @lru_cache(maxsize=100_000)
    def values(kind: str, name: str, dataset: str, setting: Setting, seed: int, trial: int) -> ResolvedEntry:
        return changes.resolve(catalogue.get(kind, name), facts[dataset], setting, seed, trial)

    problems, planned = Problems(), None
    with problems.collecting():
        refuse(requests, facts, settings, catalogue, values)
    with problems.collecting() if not problems.found else suppress(UserError):  # else it tells the same in other words
        planned = _Planner(requests, facts, settings, catalogue, values).plan()
        cells = ((row, made.run) for (row, _), cell in planned.candidates.items() for made in cell)
        problems.found += seen_before(planned.runs, cells, facts)
    problems.raise_if_any()
    assert planned, "a plan without problems"
    return planned


@dataclass
class _Planner:
    """The state that the steps of `plan` share, and the runs that they have made."""

    requests: Sequence[Request]
    facts: Mapping[str, DatasetFacts]
    settings: Mapping[str, Setting]
    """Those of the data sets, resolved."""
    catalogue: Catalogue
    values: Values
    runs: dict[tuple[object, ...], Run] = field(default_factory=dict)
    """By all that tells one from another; a run comes after its inputs."""
    folds: dict[Fold, int] = field(default_factory=dict)
    """Numbers that stand for folds in the keys of `runs`, for a fold takes long to hash."""
    watching: dict[tuple[str, str, str], set[str]] = field(default_factory=dict)
    """(data set, algorithm, backbone) -> averages."""

    def plan(self) -> Plan:
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
        """Return the rows that one training run of a row stands on, each with its setting: its teacher's, or none."""
        hparams = self.values("algorithm", row.algorithm, dataset, self.settings[dataset], seed, trial).hparams
        return [
            (below, setting_below(hparams, self.facts[dataset], self.settings[dataset]))
            for below in stands_on(row.algorithm, hparams, self.catalogue)
        ]

    def _watch(self, grid: Mapping[tuple[Row, str], Spots]) -> dict[str, str]:
        """Note which averages watch an algorithm's runs together, which those don't that feed back.

        Returns:
            Row -> the rows that its runs stand on, each with its network where that is another, in words.
        """
        taught: dict[str, dict[str, None]] = {}
        for (row, dataset), spots in grid.items():
            own = self.settings[dataset]
            draws = sorted({(seed, trial) for (_, trial), seeds in spots.items() for seed in seeds})
            teachers = dict.fromkeys(found for draw in draws for found in self._below(row, dataset, *draw))
            for watched, setting in ((row, own), *teachers):
                watching = self.watching.setdefault((dataset, watched.algorithm, setting.backbone), set())
                if watched.average and not self._feeds_back(watched.average):
                    watching.add(watched.average)
            for teacher, setting in teachers:
                network = "" if setting.backbone == own.backbone else f" with {setting.backbone}"
                taught.setdefault(row.name, {})[teacher.name + network] = None
        return {name: " or ".join(teachers) for name, teachers in taught.items()}

    def _trained(self, row: Row, spot: PlannedSpot) -> list[Run]:
        """Return the training runs of a row in one fold and trial, one a hyperparameter seed; each is made once."""
        dataset, backbone = spot.dataset, spot.setting.backbone
        own = row.average if self._feeds_back(row.average) else ""
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
        """Yield the models that a training run reads: the candidates of the row that it stands on.

        The run chooses one of them. Those of an ensemble are its members, which it takes together.
        """
        for below, setting in self._below(row, spot.dataset, seed, spot.trial):
            trained = self._trained(below, spot._replace(setting=setting))
            members = dataclasses.replace(below, merger="") if is_ensemble(below, self.catalogue) else below
            yield from (candidate.source for candidate in self._candidates(members, spot.trial, trained))

    def _candidates(self, row: Row, trial: int, trained: Sequence[Run]) -> list[PlannedPredictor]:
        """Return the predictors of a row in one fold and trial, given the trained runs of all hyperparameter seeds."""
        found = [PlannedPredictor(run, row.average or MODEL) for run in trained]
        if row.merger and self.catalogue.get("merger", row.merger).card.each:
            found = [self._derive("merge", row.merger, base.run, [base]) for base in found]
        elif row.merger:
            found = [
                self._derive("merge", row.merger, dataclasses.replace(trained[0], hparams_seed=0, trial=trial), found)
            ]
        if row.adapter:
            found = [self._derive("adapt", row.adapter, base.run, [base]) for base in found]
        return found

    def _derive(
        self, kind: Literal["merge", "adapt"], method: str, base: Run, sources: Sequence[PlannedPredictor]
    ) -> PlannedPredictor:
        """Return the run that merges or adapts `sources`, made once; all else is as in `base`."""
        inputs = tuple(candidate.source for candidate in sources)
        key = (kind, method, base.dataset, inputs)
        if key not in self.runs:
            entry_kind = "merger" if kind == "merge" else "adapter"
            part = self.values(entry_kind, method, base.dataset, base.setting, base.hparams_seed, base.trial)
            self.runs[key] = dataclasses.replace(base, kind=kind, method=part, averages=(), inputs=inputs)
        return PlannedPredictor(self.runs[key], MODEL)

    def _feeds_back(self, average: str) -> bool:
        return bool(average) and bool(self.catalogue.get("average", average).card.feeds_back)


def _inputs_first(runs: Iterable[Run]) -> tuple[Run, ...]:
    """Sort runs: those without inputs, then those that read only these, and so on; inputs come first already."""
    level: dict[str, int] = {}
    for run in runs:
        level[run.id] = max((level[source.run] + 1 for source in run.inputs), default=0)
    return tuple(sorted(runs, key=lambda run: level[run.id]))
