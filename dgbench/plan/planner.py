"""From what was asked for to the runs that answer it. Pure: no files, no torch, the same answer everywhere.

A plan knows three things: the runs, in an order in which each comes after its inputs; for each row of a table the
predictors that may stand in its cells; and which models' weights another run reads.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import NamedTuple, TypeAlias

from dgbench.catalogue.catalogue import Catalogue
from dgbench.catalogue.rows import Row, parse_row
from dgbench.core.protocol import Fold
from dgbench.core.run import ALL_TRIALS, MODEL, Input, Part, Run
from dgbench.core.setting import Setting
from dgbench.data.facts import DatasetFacts, resolve_setting
from dgbench.plan.provenance import Provenance
from dgbench.plan.refusals import refuse
from dgbench.plan.request import Overrides, Request


@dataclass(frozen=True)
class Candidate:
    """A predictor that a selector may pick for a cell: of which run, under which name."""

    run: Run
    predictor: str


@dataclass(frozen=True)
class Plan:
    """Everything that a sweep should hold."""

    runs: tuple[Run, ...]
    rows: tuple[str, ...]
    datasets: Mapping[str, DatasetFacts]
    candidates: Mapping[tuple[str, str], tuple[Candidate, ...]]
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


class Spot(NamedTuple):
    """Where a row has one training run for each hyperparameter seed."""

    dataset: str
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
    """The union of the requests; raises `UserError` with everything that can't be done.

    Requests share runs: an algorithm is trained once for all rows that stand on it, watched by all their averages.
    """
    return _Planner(requests, facts, setting, catalogue, overrides or Overrides()).plan()


class _Planner:
    """Holds what the steps of `plan` share."""

    def __init__(
        self,
        requests: Sequence[Request],
        facts: Mapping[str, DatasetFacts],
        setting: Setting,
        catalogue: Catalogue,
        overrides: Overrides,
    ) -> None:
        self.requests, self.facts, self.catalogue, self.overrides = requests, facts, catalogue, overrides
        self.settings = {name: resolve_setting(setting, fact) for name, fact in facts.items()}
        self.runs: dict[tuple[object, ...], Run] = {}
        self.folds: dict[Fold, int] = {}
        self.watching: dict[tuple[str, str, str], set[str]] = {}
        """(data set, algorithm, backbone) -> averages."""
        self.values = lru_cache(maxsize=100_000)(self._values)

    def plan(self) -> Plan:
        refuse(self.requests, self.facts, self.settings, self.catalogue, self.values)
        grid = self._grid()
        self._watch(grid)
        candidates: dict[tuple[str, str], list[Candidate]] = {}
        for (row, dataset), spots in grid.items():
            cell = candidates.setdefault((row.name, dataset), [])
            together: dict[tuple[Fold, int], list[Run]] = {}
            for (fold, trial), seeds in spots.items():
                place = (fold, ALL_TRIALS if self._all_trials(row) else trial)
                trained = self._trained(row, self.settings[dataset].backbone, Spot(dataset, fold, trial, seeds))
                together.setdefault(place, []).extend(trained)
            for (_, trial), trained in together.items():
                cell += self._candidates(row, trial, trained)
        return Plan(
            runs=_inputs_first(self.runs.values()),
            rows=tuple(dict.fromkeys(row.name for request in self.requests for row in request.rows)),
            datasets={name: self.facts[name] for request in self.requests for name in request.datasets},
            candidates={key: tuple(cell) for key, cell in candidates.items()},
            provenance=Provenance(
                {row.name: what for request in self.requests for row in request.rows if (what := self._shown(row))},
                self._taught_by(grid),
            ),
        )

    def _shown(self, row: Row) -> str:
        if row.adapter:
            return "the inputs before it, unlabelled"
        card = self.catalogue.get("algorithm", row.algorithm).card
        return "the inputs predicted with it, unlabelled" if card.transductive else ""

    def _grid(self) -> dict[tuple[Row, str], dict[tuple[Fold, int], list[int]]]:
        """(row, data set) -> (fold, trial) -> hyperparameter seeds, over all requests, each once."""
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

    def _watch(self, grid: Mapping[tuple[Row, str], Spots]) -> None:
        """Note which averages watch an algorithm's runs together, which those don't that feed back."""
        for (row, dataset), spots in grid.items():
            asked = [(row, self.settings[dataset].backbone)]
            if self._taught(row):
                asked += self._all_teachers(row, dataset, spots)
            for asked_row, backbone in asked:
                watching = self.watching.setdefault((dataset, asked_row.algorithm, backbone), set())
                if asked_row.average and not self._feeds_back(asked_row.average):
                    watching.add(asked_row.average)

    def _trained(self, row: Row, backbone: str, spot: Spot) -> list[Run]:
        """The training runs that a row stands on in one fold and trial, one a hyperparameter seed."""
        own = row.average if self._feeds_back(row.average) else ""
        averages = (own,) if own else tuple(sorted(self.watching[spot.dataset, row.algorithm, backbone]))
        number = self.folds.setdefault(spot.fold, len(self.folds))
        found = []
        for seed in spot.seeds:
            key = (row.algorithm, spot.dataset, backbone, number, spot.trial, own, seed)
            if key not in self.runs:
                self.runs[key] = self._train(row, backbone, spot, seed, averages)
            found.append(self.runs[key])
        return found

    def _train(self, row: Row, backbone: str, spot: Spot, seed: int, averages: Sequence[str]) -> Run:
        inputs = self._teachers(row, spot, seed) if self._taught(row) else ()
        return Run(
            kind="train",
            method=self.values("algorithm", row.algorithm, spot.dataset, seed, spot.trial),
            dataset=spot.dataset,
            fold=spot.fold,
            hparams_seed=seed,
            trial=spot.trial,
            setting=self._setting(spot.dataset, backbone),
            averages=tuple(self.values("average", name, spot.dataset, seed, spot.trial) for name in averages),
            inputs=inputs,
        )

    def _taught(self, row: Row) -> bool:
        return bool(self.catalogue.get("algorithm", row.algorithm).card.taught)

    def _teacher(self, row: Row, dataset: str, seed: int, trial: int) -> tuple[Row, str]:
        """The row that teaches a row's run, and its backbone."""
        hparams = self.values("algorithm", row.algorithm, dataset, seed, trial).hparams
        backbone = str(hparams["teacher_backbone"]) or self.settings[dataset].backbone
        return parse_row(str(hparams["teacher"]), self.catalogue), self.facts[dataset].network(backbone)

    def _all_teachers(self, row: Row, dataset: str, spots: Spots) -> list[tuple[Row, str]]:
        """Those of all hyperparameter seeds and trials, each once."""
        draws = {(seed, trial) for (_, trial), seeds in spots.items() for seed in seeds}
        return list(dict.fromkeys(self._teacher(row, dataset, seed, trial) for seed, trial in sorted(draws)))

    def _taught_by(self, grid: Mapping[tuple[Row, str], Spots]) -> dict[str, str]:
        found: dict[str, dict[str, None]] = {}
        for (row, dataset), spots in grid.items():
            for teacher, backbone in self._all_teachers(row, dataset, spots) if self._taught(row) else ():
                of = "" if backbone == self.settings[dataset].backbone else f" with {backbone}"
                found.setdefault(row.name, {})[teacher.name + of] = None
        return {row: " or ".join(teachers) for row, teachers in found.items()}

    def _teachers(self, row: Row, spot: Spot, seed: int) -> tuple[Input, ...]:
        """The models among which a run's teacher is chosen, or those that are its teacher together."""
        teacher, backbone = self._teacher(row, spot.dataset, seed, spot.trial)
        trained = self._trained(teacher, backbone, spot)
        if teacher.merger and self.catalogue.get("merger", teacher.merger).card.ensemble:
            return tuple(Input(run.id, teacher.average or MODEL) for run in trained)
        chosen = self._candidates(teacher, spot.trial, trained)
        return tuple(Input(candidate.run.id, candidate.predictor) for candidate in chosen)

    def _setting(self, dataset: str, backbone: str) -> Setting:
        """That of the data set's runs; a teacher's differs in the network alone, for it is shown the same images."""
        setting = self.settings[dataset]
        return setting if setting.backbone == backbone else dataclasses.replace(setting, backbone=backbone, weights="")

    def _candidates(self, row: Row, trial: int, trained: Sequence[Run]) -> Iterator[Candidate]:
        """The predictors of one row in one fold and trial, given the trained runs of all hyperparameter seeds."""
        predictor = row.average or MODEL
        bases = [Candidate(run, predictor) for run in trained]
        if row.merger:
            members = [Input(run.id, predictor) for run in trained]
            if self.catalogue.get("merger", row.merger).card.each:
                merged = [
                    self._derive("merge", row.merger, run, run.hparams_seed, (source,))
                    for run, source in zip(trained, members, strict=True)
                ]
            else:
                base = dataclasses.replace(trained[0], trial=trial)
                merged = [self._derive("merge", row.merger, base, 0, tuple(members))]
            bases = [Candidate(run, MODEL) for run in merged]
        for found in bases:
            if row.adapter:
                inputs = (Input(found.run.id, found.predictor),)
                yield Candidate(self._derive("adapt", row.adapter, found.run, found.run.hparams_seed, inputs), MODEL)
            else:
                yield found

    def _all_trials(self, row: Row) -> bool:
        return bool(row.merger) and bool(self.catalogue.get("merger", row.merger).card.all_trials)

    def _feeds_back(self, average: str) -> bool:
        return bool(average) and bool(self.catalogue.get("average", average).card.feeds_back)

    def _derive(self, kind: str, method: str, base: Run, seed: int, inputs: tuple[Input, ...]) -> Run:
        key = (kind, method, base.dataset, inputs)
        if key not in self.runs:
            entry_kind = "merger" if kind == "merge" else "adapter"
            part = self.values(entry_kind, method, base.dataset, seed, base.trial)
            changes = {"kind": kind, "method": part, "hparams_seed": seed, "averages": (), "inputs": inputs}
            self.runs[key] = dataclasses.replace(base, **changes)  # type: ignore[arg-type]
        return self.runs[key]

    def _values(self, kind: str, name: str, dataset: str, seed: int, trial: int) -> Part:
        """The entry with its values; what is overridden for all algorithms touches only names that it has.

        Raises `UserError` if values that were overridden don't go together with the others.
        """
        entry, of_all = self.catalogue.get(kind, name), self.overrides if kind == "algorithm" else Overrides()
        fixed = {key: value for key, value in of_all.fixed.items() if entry.takes(key)}
        draws = {key: draw for key, draw in of_all.draws.items() if entry.takes(key)}
        fixed |= self.overrides.parts.get(name, {})
        traits = self.facts[dataset].traits
        hparams = entry.resolve(dataset, traits=traits, hparams_seed=seed, trial=trial, fixed=fixed, draws=draws)
        if fixed or draws:
            entry.check(hparams)
        return Part(name, hparams)


def _inputs_first(runs: Iterable[Run]) -> tuple[Run, ...]:
    """Runs that need none, then those that need only these, and so on; each comes after its inputs already."""
    level: dict[str, int] = {}
    for run in runs:
        level[run.id] = max((level[source.run] + 1 for source in run.inputs), default=0)
    return tuple(sorted(runs, key=lambda run: level[run.id]))
