"""Selectors: which hyperparameter seed and which step stand for a row, and what each is allowed to read to decide.

A selector sees records alone. It reports the metric (accuracy, if the data set has none of its own) on the fold's test
views, at the step and for the hyperparameters that score best on the views that it reads.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from dgbench.core.errors import Problems
from dgbench.core.protocol import FixedSplit, Fold, View
from dgbench.core.run import ALL_TRIALS
from dgbench.core.stats import nan_as_worst
from dgbench.core.wording import unknown_name
from dgbench.report.results import Gap, Results, Series


@dataclass(frozen=True)
class Pick:
    """What was chosen: a step of one predictor."""

    hparams_seed: int
    step: int
    run: str
    value: float
    """What it was chosen by, -inf where that was no number; NaN where there was one model and no choice."""
    score: float
    """Mean value on the test views there: what is reported; accuracies lie between 0 and 1."""
    in_domain: float | None
    """Mean value on the training domains' validation parts there; None if the fold has none."""
    by_domain: Mapping[str, float] = field(default_factory=dict)
    """Test domain -> value there; empty where there is one."""
    diverged: bool = False
    """Whether the predictor ended with a loss or metric that is no number."""

    @staticmethod
    def of(series: Series, fold: Fold, seed: int, place: int, value: float) -> Pick:
        """The step at `place` of a series, chosen by `value`."""
        measured = bool(fold.source_val) and set(fold.source_val) <= set(series.views)
        in_domain = float(series.mean(fold.source_val)[place]) if measured else None
        score = float(series.mean(fold.test)[place])
        by_domain = {view.domain: float(series.mean([view])[place]) for view in fold.test if len(fold.test) > 1}
        return Pick(seed, series.steps[place], series.run, value, score, in_domain, by_domain, series.diverged)


@dataclass(frozen=True)
class Outcome:
    """One choice among the hyperparameter seeds of a row in one fold and trial."""

    pick: Pick | None
    """The best of those that are complete; None if none is."""
    complete: int
    """Hyperparameter seeds that could be scored."""
    asked: int
    """Hyperparameter seeds that the sweep should have."""
    gaps: tuple[Gap, ...]
    """What the others lack. While there are any, the choice isn't the one that was asked for."""


class Selector(ABC):
    """Choose among the candidates of a spot; `reads` and `models_read` describe the records that it reads."""

    name: ClassVar[str]
    label: ClassVar[str]
    """As DomainBed's tables call it."""
    reads: ClassVar[str]
    """The views that it reads, with `{metric}` where the name of what is measured belongs."""
    steps: ClassVar[str] = "at every evaluated step"
    """The models of a training run that it compares."""
    of_adapted: ClassVar[str] = "of the best model in validation and the last"
    """The models that it compares of a run that adapts another's."""
    last_only: ClassVar[bool] = False
    """Whether it reads the last of a run's models alone."""

    @abstractmethod
    def unavailable(self, results: Results, dataset: str) -> str:
        """Why the sweep can't answer on this data set, whatever finishes; empty if it can."""

    @abstractmethod
    def folds_read(self, results: Results, dataset: str) -> tuple[int, ...]:
        """Positions of the folds whose runs it reads, the reported ones first."""

    @abstractmethod
    def models(self, results: Results, row: str, dataset: str, fold: int, trial: int, seed: int) -> int | None:
        """Count the models of one hyperparameter seed that it compares: 0 while runs lack, None if never asked for."""

    def models_read(self, results: Results, row: str, datasets: Sequence[str]) -> str:
        """Describe the models of a row whose views it reads, and the choices made before, in making them."""
        members = " whose members are their runs' best in validation" if row in results.members else ""
        if results.of_all_trials(row, datasets):
            return f"but for the one model of all trials{members}, which nothing was read to choose"
        if row in results.adapted:
            return ("of the last model alone" if self.last_only else self.of_adapted) + members
        if members:
            return ("of the last merged model" if self.last_only else "of each merged model") + members
        return self.steps

    @abstractmethod
    def rate(self, results: Results, row: str, dataset: str, fold: int, trial: int, seed: int) -> Pick | list[Gap]:
        """The best step for one hyperparameter seed, or what it lacks; an empty list if it was never asked for."""

    def choose(self, results: Results, row: str, dataset: str, fold: int, trial: int) -> Outcome:
        """The best over the hyperparameter seeds; the highest seed of those that tie, as DomainBed's."""
        best: Pick | None = None
        complete, asked, gaps = 0, 0, []
        for seed in sorted(results.at(row, dataset, (fold, trial))):
            rated = self.rate(results, row, dataset, fold, trial, seed)
            asked += rated != []
            if isinstance(rated, list):
                gaps += rated
                continue
            complete += 1
            if best is None or rated.value >= best.value:
                best = rated
        return Outcome(best, complete, asked, tuple(dict.fromkeys(gaps)))


class _OneRun(Selector):
    """Selectors that look at views of the run itself: `part` says which."""

    part: ClassVar[str]
    """The views that are read, by what `Fold` calls them."""
    without: ClassVar[str]
    """What is said of a sweep with a reported fold that has no such views."""

    def views(self, fold: Fold) -> tuple[View, ...]:
        """The views of a fold that are read."""
        views: tuple[View, ...] = getattr(fold, self.part)
        return views

    def unavailable(self, results: Results, dataset: str) -> str:
        if all(self.views(results.folds[position]) for position in results.reported(dataset)):
            return ""
        return self.without

    def folds_read(self, results: Results, dataset: str) -> tuple[int, ...]:
        return results.reported(dataset)

    def models(self, results: Results, row: str, dataset: str, fold: int, trial: int, seed: int) -> int | None:
        series = results.at(row, dataset, (fold, trial))[seed]
        return 0 if isinstance(series, Gap) else len(series.steps)

    def rate(self, results: Results, row: str, dataset: str, fold: int, trial: int, seed: int) -> Pick | list[Gap]:
        series = results.at(row, dataset, (fold, trial))[seed]
        if isinstance(series, Gap):
            return [series]
        here = results.folds[fold]
        if trial == ALL_TRIALS:
            return Pick.of(series, here, seed, len(series.steps) - 1, math.nan)
        values = [nan_as_worst(value) for value in series.mean(self.views(here)).tolist()]
        place = len(values) - 1 if self.last_only else int(np.argmax(values))
        return Pick.of(series, here, seed, place, values[place])


class TrainingDomain(_OneRun):
    """Training-domain validation: the default, and what can be done when no other domain is at hand."""

    name = "training-domain"
    label = "training-domain validation set"
    reads = "mean {metric} on the training domains' validation parts"
    without = "the sweep keeps no validation parts of the training domains"
    part = "source_val"


class ValidationDomain(_OneRun):
    """Validation on domains that are neither trained on nor reported."""

    name = "validation-domain"
    label = "validation domains"
    reads = "mean {metric} on the domains that were kept for validation"
    without = "the sweep keeps no domains for validation"
    part = "target_val"


class Oracle(_OneRun):
    """Test-domain validation: reads labels of the test domain, so no method may claim its numbers."""

    name = "oracle"
    label = "test-domain validation set (oracle)"
    reads = "labelled data of the test domain that is not reported"
    steps = "at the last step only"
    without = "the sweep keeps no labelled data of the test domains aside"
    last_only = True
    part = "oracle"


class LeaveOneDomainOutSelection(Selector):
    """Cross-validation over the training domains, each left out in turn by a run of its own."""

    name = "leave-one-domain-out"
    label = "leave-one-domain-out cross-validation"
    reads = (
        "for each training domain the {metric} on it of the run that held it out together with the test domain, "
        "mean over training domains"
    )
    steps = "at every step that all these runs evaluated"
    of_adapted = "of each run's best model in validation together, and of each run's last"

    def unavailable(self, results: Results, dataset: str) -> str:
        reported = results.reported(dataset)
        if all(results.pairs(dataset, position) for position in reported):
            return ""
        if any(len(results.folds[position].held_out) > 1 for position in reported):
            return "the sweep has no folds with one test domain"
        return "the sweep has no folds with two test domains"

    def folds_read(self, results: Results, dataset: str) -> tuple[int, ...]:
        reported = results.reported(dataset)
        pairs = (pair for position in reported for _, pair in results.pairs(dataset, position))
        return tuple(dict.fromkeys((*reported, *pairs)))

    def models(self, results: Results, row: str, dataset: str, fold: int, trial: int, seed: int) -> int | None:
        single = results.at(row, dataset, (fold, trial))[seed]
        pairs = [results.at(row, dataset, (pair, trial)).get(seed) for _, pair in results.pairs(dataset, fold)]
        if None in pairs:
            return None
        matched = [run.places.keys() for run in pairs if isinstance(run, Series)]
        if isinstance(single, Gap) or len(matched) < len(pairs):
            return 0
        return len({place for match, place in single.places.items() if all(match in keys for keys in matched)})

    def rate(self, results: Results, row: str, dataset: str, fold: int, trial: int, seed: int) -> Pick | list[Gap]:
        single = results.at(row, dataset, (fold, trial))[seed]
        gaps, pairs = [single] if isinstance(single, Gap) else [], []
        for view, pair in results.pairs(dataset, fold):
            run = results.at(row, dataset, (pair, trial)).get(seed)
            if run is None:
                return []
            if isinstance(run, Gap):
                gaps.append(run)
            else:
                pairs.append((view, run))
        if isinstance(single, Gap) or gaps:
            return gaps
        here = results.folds[fold]
        why = "it and the runs with two test domains were evaluated at no common step"
        apart = Gap(single.run, row, dataset, here.held_out, seed, trial, "damaged", why)
        return self._best_step(seed, here, single, pairs) or [apart]

    @staticmethod
    def _best_step(seed: int, fold: Fold, single: Series, pairs: Sequence[tuple[View, Series]]) -> Pick | None:
        tables = []
        for view, run in pairs:
            values = run.mean([view])
            tables.append({match: values[place] for match, place in run.places.items()})
        best: tuple[float, int] | None = None
        for match, place in single.places.items():
            if all(match in table for table in tables):
                value = nan_as_worst(float(np.mean([table[match] for table in tables])))
                if best is None or value > best[0]:
                    best = value, place
        return Pick.of(single, fold, seed, best[1], best[0]) if best else None


SELECTORS: Mapping[str, Selector] = {
    selector.name: selector
    for selector in (TrainingDomain(), ValidationDomain(), LeaveOneDomainOutSelection(), Oracle())
}
"""All selectors by name, in the order of the tables."""


def selectors(names: Iterable[str]) -> tuple[Selector, ...]:
    """The named selectors, each once, in the order given; raises `UserError` with the nearest for unknown names."""
    problems = Problems()
    for name in names:
        if name not in SELECTORS:
            problems.add(unknown_name("selector", name, SELECTORS))
    problems.raise_if_any()
    return tuple(SELECTORS[name] for name in dict.fromkeys(names))


def default_selectors(results: Results) -> tuple[Selector, ...]:
    """Those of DomainBed's tables, and validation on further domains where the sweep has any.

    Data sets with splits of their own have the one that reads what they are validated on, and nothing that
    leave-one-domain-out or an oracle could read.
    """
    kept = ValidationDomain.name
    if results.protocol == FixedSplit.name:
        own = (SELECTORS[kept], SELECTORS[TrainingDomain.name])
        return tuple(s for s in own if not all(s.unavailable(results, dataset) for dataset in results.datasets))
    more = any(not SELECTORS[kept].unavailable(results, dataset) for dataset in results.datasets)
    return tuple(selector for name, selector in SELECTORS.items() if name != kept or more)
