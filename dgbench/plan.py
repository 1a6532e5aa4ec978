"""From what was asked for to the runs that answer it. Pure: no files, no torch, the same answer everywhere.

A plan knows three things: the runs, in an order in which each comes after its inputs; for each row of a table the
predictors that may stand in its cells; and which predictors' weights another run reads.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

from dgbench.backbones import resolve_backbone
from dgbench.cards import GENERATED, NEEDS
from dgbench.catalogue import Catalogue
from dgbench.errors import Problems
from dgbench.names import Row
from dgbench.protocol import Fold, Protocol
from dgbench.run import MODEL, Input, Part, Run
from dgbench.setting import Setting
from dgbench.space import Draw, Value


@dataclass(frozen=True)
class DatasetFacts:
    """What planning, selection and tables need to know of a data set once its files have been looked at."""

    name: str
    domains: tuple[str, ...]
    counts: tuple[int, ...]
    num_classes: int
    input_shape: tuple[int, ...]
    traits: tuple[str, ...]
    steps: int
    checkpoint_freq: int
    fingerprint: str


@dataclass(frozen=True)
class Request:
    """One `launch`: rows x data sets x folds x trials x hyperparameter seeds."""

    rows: tuple[Row, ...]
    datasets: tuple[str, ...]
    protocol: Protocol
    hparams_seeds: tuple[int, ...]
    trials: tuple[int, ...]


@dataclass(frozen=True)
class Overrides:
    """Changes to the hyperparameter spaces that hold for a whole sweep."""

    fixed: Mapping[str, Value] = field(default_factory=dict)
    """Values for every algorithm that has the name, whatever the hyperparameter seed."""
    parts: Mapping[str, Mapping[str, Value]] = field(default_factory=dict)
    """The same for one entry: `{"SWAD": {"tolerance_ratio": 0.2}}`."""
    draws: Mapping[str, Draw] = field(default_factory=dict)
    """Distributions in place of the declared ones, for every algorithm that has the name."""


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
    shown: Mapping[str, str] = field(default_factory=dict)
    """Row -> what of the held-out domain its predictors are shown beside the input to predict; rows without: none."""

    @cached_property
    def read_by_others(self) -> Mapping[str, frozenset[str]]:
        """Run id -> the predictors whose weights another run reads, so that they must be kept."""
        read: dict[str, set[str]] = {}
        for run in self.runs:
            for source in run.inputs:
                read.setdefault(source.run, set()).add(source.predictor)
        return {run: frozenset(predictors) for run, predictors in read.items()}


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
        self.values = lru_cache(maxsize=100_000)(self._values)

    def plan(self) -> Plan:
        self._refuse()
        averages = self._averages()
        candidates: dict[tuple[str, str], list[Candidate]] = {}
        for (row, dataset), spots in self._grid().items():
            cell = candidates.setdefault((row.name, dataset), [])
            for (fold, trial), seeds in spots.items():
                number = self.folds.setdefault(fold, len(self.folds))
                own = row.average if self._feeds_back(row.average) else ""
                watching = (own,) if own else averages[dataset, row.algorithm]
                key = (row.algorithm, dataset, number, trial, own)
                trained = [self._train((*key, seed), fold, watching) for seed in seeds]
                cell += self._candidates(row, trained)
        order = {"train": 0, "merge": 1, "adapt": 2}
        return Plan(
            runs=tuple(sorted(self.runs.values(), key=lambda run: order[run.kind])),
            rows=tuple(dict.fromkeys(row.name for request in self.requests for row in request.rows)),
            datasets={name: self.facts[name] for request in self.requests for name in request.datasets},
            candidates={key: tuple(cell) for key, cell in candidates.items()},
            shown={row.name: what for request in self.requests for row in request.rows if (what := self._shown(row))},
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
                folds = list(request.protocol.folds(self.facts[dataset].domains))
                for row in request.rows:
                    spots = grid.setdefault((row, dataset), {})
                    for trial in request.trials:
                        for fold in folds:
                            spots.setdefault((fold, trial), {}).update(dict.fromkeys(request.hparams_seeds))
        return {key: {spot: sorted(seeds) for spot, seeds in spots.items()} for key, spots in grid.items()}

    def _averages(self) -> dict[tuple[str, str], tuple[str, ...]]:
        """(data set, algorithm) -> the averages that watch its runs together, which those don't that feed back."""
        watching: dict[tuple[str, str], set[str]] = {}
        for request in self.requests:
            for dataset in request.datasets:
                for row in request.rows:
                    own = {""} if self._feeds_back(row.average) else {row.average}
                    watching.setdefault((dataset, row.algorithm), set()).update(own - {""})
        return {key: tuple(sorted(names)) for key, names in watching.items()}

    def _candidates(self, row: Row, trained: Sequence[Run]) -> Iterator[Candidate]:
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
                merged = [self._derive("merge", row.merger, trained[0], 0, tuple(members))]
            bases = [Candidate(run, MODEL) for run in merged]
        for base in bases:
            if row.adapter:
                inputs = (Input(base.run.id, base.predictor),)
                yield Candidate(self._derive("adapt", row.adapter, base.run, base.run.hparams_seed, inputs), MODEL)
            else:
                yield base

    def _feeds_back(self, average: str) -> bool:
        return bool(average) and bool(self.catalogue.get("average", average).card.feeds_back)

    def _train(self, key: tuple[str, str, int, int, str, int], fold: Fold, averages: tuple[str, ...]) -> Run:
        """The run of (algorithm, data set, number of the fold, trial, what feeds back, hyperparameter seed), once."""
        if key not in self.runs:
            algorithm, dataset, _, trial, _, seed = key
            self.runs[key] = Run(
                kind="train",
                method=self.values("algorithm", algorithm, dataset, seed, trial),
                dataset=dataset,
                fold=fold,
                hparams_seed=seed,
                trial=trial,
                setting=self.settings[dataset],
                averages=tuple(self.values("average", name, dataset, seed, trial) for name in averages),
            )
        return self.runs[key]

    def _derive(self, kind: str, method: str, base: Run, seed: int, inputs: tuple[Input, ...]) -> Run:
        key = (kind, method, base.dataset, inputs)
        if key not in self.runs:
            entry_kind = "merger" if kind == "merge" else "adapter"
            part = self.values(entry_kind, method, base.dataset, seed, base.trial)
            changes = {"kind": kind, "method": part, "hparams_seed": seed, "averages": (), "inputs": inputs}
            self.runs[key] = dataclasses.replace(base, **changes)  # type: ignore[arg-type]
        return self.runs[key]

    def _values(self, kind: str, name: str, dataset: str, seed: int, trial: int) -> Part:
        """The entry with its values; what is overridden for all algorithms touches only names that it has."""
        entry, of_all = self.catalogue.get(kind, name), self.overrides if kind == "algorithm" else Overrides()
        fixed = {key: value for key, value in of_all.fixed.items() if entry.takes(key)}
        draws = {key: draw for key, draw in of_all.draws.items() if entry.takes(key)}
        fixed |= self.overrides.parts.get(name, {})
        traits = self.facts[dataset].traits
        hparams = entry.resolve(dataset, traits=traits, hparams_seed=seed, trial=trial, fixed=fixed, draws=draws)
        return Part(name, hparams)

    def _refuse(self) -> None:
        """Tell everything that can't be planned, at once."""
        problems = Problems()
        for request in self.requests:
            for dataset in request.datasets:
                with problems.collecting():
                    folds = list(request.protocol.folds(self.facts[dataset].domains))
                    fewest = min(len(fold.training_domains) for fold in folds)
                    for problem in self._too_few_domains(request.rows, dataset, fewest):
                        problems.add(problem)
                for problem in (
                    *self._unfit_mergers(request, dataset),
                    *self._data_apart(request.rows, dataset),
                    *self._not_followed(request.rows, dataset),
                    *self._unmet_needs(request.rows, dataset),
                ):
                    problems.add(problem)
                for row in request.rows:
                    with problems.collecting():
                        self.values("algorithm", row.algorithm, dataset, request.hparams_seeds[0], request.trials[0])
        problems.raise_if_any()

    def _too_few_domains(self, rows: Iterable[Row], dataset: str, fewest: int) -> Iterator[str]:
        for row in rows:
            needed = self.catalogue.get("algorithm", row.algorithm).card.min_domains
            if fewest < needed:
                yield (
                    f"{row.algorithm} needs at least {needed} training domains; on {dataset} a fold has {fewest}. "
                    "--single_test_envs leaves out the folds with two test domains"
                )

    def _unfit_mergers(self, request: Request, dataset: str) -> Iterator[str]:
        for row in request.rows:
            if not row.merger:
                continue
            card = self.catalogue.get("merger", row.merger).card
            if len(request.hparams_seeds) < card.min_members:
                yield (
                    f"{row.name} merges the runs of one trial, at least {card.min_members}; "
                    f"--n_hparams gives {len(request.hparams_seeds)}"
                )
            if card.shared_init and self.settings[dataset].init == "run":
                yield (
                    f"{row.name} averages weights of runs that must start alike; preset "
                    f"{self.settings[dataset].preset!r} starts each run from weights of its own. "
                    'Add --hparams \'{"init": "trial"}\''
                )

    def _data_apart(self, rows: Iterable[Row], dataset: str) -> Iterator[str]:
        """Rows that merge runs of which each drew data of its own: what one is tested on, another has trained on."""
        setting = self.settings[dataset]
        if setting.generated_data == "run" and GENERATED in self.facts[dataset].traits:
            for row in rows:
                if row.merger and not self.catalogue.get("merger", row.merger).card.each:
                    yield (
                        f"{row.name} merges runs that must have seen the same data; preset {setting.preset!r} draws "
                        f'{dataset} anew for each run. Add --hparams \'{{"generated_data": "trial"}}\''
                    )

    def _unmet_needs(self, rows: Iterable[Row], dataset: str) -> Iterator[str]:
        setting = self.settings[dataset]
        lacking = {"feature_maps"} if setting.backbone == "MLP" else set[str]()
        lacking |= {"linear_classifier"} if setting.nonlinear_classifier else set()
        for row in rows:
            for need in self.catalogue.get("algorithm", row.algorithm).card.needs:
                if need in lacking:
                    yield f"{row.algorithm} needs {NEEDS[need]}, which it would not have on {dataset}"

    def _not_followed(self, rows: Iterable[Row], dataset: str) -> Iterator[str]:
        """What of the setting an algorithm can't follow, averages that can't feed back into it, and adapters that would
        need more of it than it shows."""
        for row in rows:
            entry = self.catalogue.get("algorithm", row.algorithm)
            yield from entry.refusals(self.settings[dataset])
            if self._feeds_back(row.average) and (not entry.features or "network" in entry.card.followers):
                yield (
                    f"{row.name}: {row.average} changes the training that it watches, which can't be done from outside "
                    f"to {row.algorithm}'s"
                )
            if row.adapter and not entry.features and self.catalogue.get("adapter", row.adapter).card.needs_features:
                yield (
                    f"{row.name}: {row.adapter} works on a network's features, and {row.algorithm} shows only its "
                    "predictions"
                )


def resolve_setting(setting: Setting, facts: DatasetFacts) -> Setting:
    """The setting with nothing left open: the data set's steps and evaluation interval, the backbone's own name."""
    resolved = setting.for_dataset(facts.steps, facts.checkpoint_freq)
    return dataclasses.replace(resolved, backbone=resolve_backbone(resolved.backbone, facts.input_shape))
