"""Select models: choose a hyperparameter seed and a step for each cell of a table, from records alone.

A selector decides by the values of those views that it is entitled to, and reports the metric on the fold's test views
at the step that it chose. These four (`selectors.SELECTORS`) differ in the views that they read:

    training-domain       validation parts of the training domains, of the same run
    validation-domain     domains that are kept for validation, of the same run
    leave-one-domain-out  each training domain, of the run that holds it out together with the test domain
    oracle                labeled parts of the test domain, at the last step alone

The choice has two levels, as in DomainBed. `rate` finds the best step of one hyperparameter seed, `choose` the best
seed of one fold and trial. What can't be rated for lack of a run comes back as gaps, which make the outcome incomplete.
Ties are decided as in DomainBed: the earliest of equal steps, the highest of equal seeds. A value that is NaN loses
against every number.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import numpy as np

from dgbench.core.protocol import Fold, View
from dgbench.core.run import ALL_TRIALS
from dgbench.core.stats import mean_of_rows, nan_as_worst
from dgbench.report.results import Gap, Results, Series
from dgbench.report.statistics import sampling_error


@dataclass(frozen=True)
class Pick:
    """The choice of a selector: one step of one predictor, and the values there."""

    hparams_seed: int
    """Hyperparameter seed of the run."""
    step: int
    """The step after which the model was taken."""
    run: str
    """The run's id; of DomainBed's runs, the name of the folder."""
    value: float
    """The value that decided; -inf for NaN, and NaN if there was a single model and no choice."""
    score: float
    """Mean value on the test views at that step, the number that is reported; accuracies are in [0, 1]."""
    in_domain: float | None
    """Mean value on the training domains' validation parts at that step; None if the fold has none."""
    by_domain: Mapping[str, float] = field(default_factory=dict)
    """Test domain -> value at that step; empty if there is one."""
    examples: Mapping[str, int] = field(default_factory=dict)
    """Test domain -> number of its test examples; empty if unknown, or if the metric is no share of examples."""
    diverged: bool = False
    """Whether the predictor's last record has a loss or metric that is NaN or infinite."""

    @staticmethod
    def of(rated: Rated) -> Pick:
        """Make the pick of a rated model."""
        series, fold, place = rated.series, rated.fold, rated.place
        measured = bool(fold.source_val) and set(fold.source_val) <= set(series.views)
        in_domain = float(series.mean(fold.source_val)[place]) if measured else None
        score = float(series.mean(fold.test)[place])
        by_domain = {view.domain: float(series.mean([view])[place]) for view in fold.test if len(fold.test) > 1}
        sizes = dict(zip(series.views, series.sizes, strict=True)) if series.sizes else {}
        examples = {view.domain: sizes[view] for view in fold.test if view in sizes}
        return Pick(
            rated.seed,
            series.steps[place],
            series.run,
            rated.value,
            score,
            in_domain,
            by_domain,
            examples,
            series.diverged,
        )

    def sampling_error(self, domain: str = "") -> float:
        """Return the standard error of the score that is due to the number of test examples alone.

        Args:
            domain: One of several test domains; empty: of the mean over all of them.

        Returns:
            The binomial standard error; NaN if the numbers of examples are unknown.
        """
        scores = self.by_domain or dict.fromkeys(self.examples, self.score)
        found = [
            sampling_error(score, self.examples.get(name, 0)) for name, score in scores.items() if domain in ("", name)
        ]
        return math.hypot(*found) / len(found) if found else math.nan


class Rated(NamedTuple):
    """The best step of one hyperparameter seed; most are never picked, so their scores are not worked out."""

    series: Series
    """The predictor."""
    fold: Fold
    """The fold of its run."""
    seed: int
    """The hyperparameter seed of its run."""
    place: int
    """Index of the best step in `series.steps`."""
    value: float
    """The value that decided; -inf for NaN, and NaN if there was a single model and no choice."""


@dataclass(frozen=True)
class Outcome:
    """The choice among the hyperparameter seeds of a row in one fold and trial."""

    pick: Pick | None
    """The best of the seeds that could be rated; None if none could."""
    complete: int
    """Number of hyperparameter seeds that could be rated."""
    planned: int
    """Number of hyperparameter seeds that the sweep should have."""
    gaps: tuple[Gap, ...]
    """The runs that the other seeds lack; with any, `pick` may not be the choice of the complete sweep."""


class Selector(ABC):
    """Base of every selector: rates the models of a run and chooses among hyperparameter seeds.

    Instances have no state; `selectors.SELECTORS` holds one of each class. Attributes describe to readers of tables
    which records the selector reads.
    """

    name: str
    """Name on the command line and in records of tables."""
    label: str
    """Name in table titles, DomainBed's where it has the selector."""
    reads: str
    """The views that decide, with `{metric}` in place of the metric's name."""
    steps: str = "at every evaluated step"
    """Which models of a training run are compared."""
    of_adapted: str = "of the best model in validation and the last"
    """Which models are compared if the run adapts another run's."""
    last_only: ClassVar[bool] = False
    """Whether a run's last model alone is read."""

    @abstractmethod
    def unavailable(self, results: Results, dataset: str) -> str:
        """Return why the sweep can never answer on this data set, even when complete; empty if it can."""

    @abstractmethod
    def folds_read(self, results: Results, dataset: str) -> tuple[int, ...]:
        """Return the indices of the folds whose runs are read, the reported ones first."""

    @abstractmethod
    def models(self, results: Results, row: str, dataset: str, fold: int, trial: int, seed: int) -> int | None:
        """Return the number of models of one hyperparameter seed that are compared.

        0 while runs are lacking; None if they were never planned.
        """

    def models_read(self, results: Results, row: str, datasets: Sequence[str]) -> str:
        """Describe in words which models of a row are read, and the choices that were made before, in making them."""
        members = " whose members are their runs' best in validation" if row in results.members else ""
        if results.of_all_trials(row, datasets):
            return f"but for the one model of all trials{members}, which nothing was read to choose"
        if row in results.adapted:
            return ("of the last model alone" if self.last_only else self.of_adapted) + members
        if members:
            return ("of the last merged model" if self.last_only else "of each merged model") + members
        return self.steps

    @abstractmethod
    def rate(self, results: Results, row: str, dataset: str, fold: int, trial: int, seed: int) -> Rated | list[Gap]:
        """Find the best step of one hyperparameter seed.

        Args:
            results: The sweep.
            row: The row.
            dataset: Its data set.
            fold: Index of the fold in `results.folds`.
            trial: The trial.
            seed: The hyperparameter seed.

        Returns:
            The step; or the gaps that prevent it, an empty list if the runs were never planned.
        """

    def choose(self, results: Results, row: str, dataset: str, fold: int, trial: int) -> Outcome:
        """Choose among the hyperparameter seeds of a row in one fold and trial.

        The choice is made once for the same results, and kept in `Results.choices`.

        Args:
            results: The sweep.
            row: The row.
            dataset: Its data set.
            fold: Index of the fold in `results.folds`.
            trial: The trial.
        """
        place = self.name, row, dataset, fold, trial
        if place not in results.choices:
            results.choices[place] = self._choose(results, row, dataset, fold, trial)
        found: Outcome = results.choices[place]
        return found

    def _choose(self, results: Results, row: str, dataset: str, fold: int, trial: int) -> Outcome:
        best: Rated | None = None
        complete, planned, gaps = 0, 0, []
        for seed in sorted(results.at(row, dataset, (fold, trial))):
            rated = self.rate(results, row, dataset, fold, trial, seed)
            planned += rated != []
            if isinstance(rated, list):
                gaps += rated
                continue
            complete += 1
            # `>=`: of seeds that tie the highest wins, as in DomainBed.
            if best is None or rated.value >= best.value:
                best = rated
        return Outcome(Pick.of(best) if best else None, complete, planned, tuple(dict.fromkeys(gaps)))


class _OneRun(Selector):
    """A selector that reads views of the same run that it reports."""

    part: ClassVar[str]
    """The name of those views in `Fold`."""
    without: ClassVar[str]
    """The reason against a sweep in which a reported fold has no such views."""

    def views(self, fold: Fold) -> tuple[View, ...]:
        """Return the views of a fold that decide."""
        views: tuple[View, ...] = getattr(fold, self.part)
        return views

    def unavailable(self, results: Results, dataset: str) -> str:
        """Return `without` if a reported fold has no views to decide by."""
        if all(self.views(results.folds[position]) for position in results.reported(dataset)):
            return ""
        return self.without

    def folds_read(self, results: Results, dataset: str) -> tuple[int, ...]:
        """Return the reported folds alone."""
        return results.reported(dataset)

    def models(self, results: Results, row: str, dataset: str, fold: int, trial: int, seed: int) -> int | None:
        """Return the number of evaluated steps of the run."""
        series = results.at(row, dataset, (fold, trial))[seed]
        return 0 if isinstance(series, Gap) else len(series.steps)

    def rate(self, results: Results, row: str, dataset: str, fold: int, trial: int, seed: int) -> Rated | list[Gap]:
        """Take the run's last step, or the earliest of those with the highest mean over the views."""
        series = results.at(row, dataset, (fold, trial))[seed]
        if isinstance(series, Gap):
            return [series]
        own_fold = results.folds[fold]
        # One model of all trials: there is nothing to choose, and no view that its members haven't trained on.
        if trial == ALL_TRIALS:
            return Rated(series, own_fold, seed, len(series.steps) - 1, math.nan)
        values = [nan_as_worst(value) for value in series.mean(self.views(own_fold)).tolist()]
        # `index` returns the earliest of steps that tie, as in DomainBed.
        place = len(values) - 1 if self.last_only else values.index(max(values))
        return Rated(series, own_fold, seed, place, values[place])


class TrainingDomain(_OneRun):
    """Training-domain validation, DomainBed's first selector: it needs no domain beside those that train."""

    name = "training-domain"
    label = "training-domain validation set"
    reads = "mean {metric} on the training domains' validation parts"
    without = "the sweep keeps no validation parts of the training domains"
    part = "source_val"


class ValidationDomain(_OneRun):
    """Validation on domains that neither train nor are reported."""

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
    """Cross-validation over the training domains, each of which is held out in turn by a further run.

    The runs that hold out two domains must share a step with the run that is reported, as the steps are rated together.
    """

    name = "leave-one-domain-out"
    label = "leave-one-domain-out cross-validation"
    reads = (
        "for each training domain the {metric} on it of the run that held it out together with the test domain, "
        "mean over training domains"
    )
    steps = "at every step that all these runs evaluated"
    of_adapted = "of each run's best model in validation together, and of each run's last"

    def unavailable(self, results: Results, dataset: str) -> str:
        """Return the kind of folds that the sweep lacks; empty if it has all."""
        reported = results.reported(dataset)
        if all(results.pairs(dataset, position) for position in reported):
            return ""
        if any(len(results.folds[position].held_out) > 1 for position in reported):
            return "the sweep has no folds with one test domain"
        return "the sweep has no folds with two test domains"

    def folds_read(self, results: Results, dataset: str) -> tuple[int, ...]:
        """Return the reported folds, then those that hold out two domains."""
        reported = results.reported(dataset)
        pairs = (pair for position in reported for _, pair in results.pairs(dataset, position))
        return tuple(dict.fromkeys((*reported, *pairs)))

    def models(self, results: Results, row: str, dataset: str, fold: int, trial: int, seed: int) -> int | None:
        """Return the number of steps that all runs of the cross-validation have evaluated."""
        single = results.at(row, dataset, (fold, trial))[seed]
        pairs = [results.at(row, dataset, (pair, trial)).get(seed) for _, pair in results.pairs(dataset, fold)]
        if None in pairs:
            return None
        others = [run for run in pairs if isinstance(run, Series)]
        if isinstance(single, Gap) or len(others) < len(pairs):
            return 0
        return len(set(_shared([single, *others])[0]))

    def rate(self, results: Results, row: str, dataset: str, fold: int, trial: int, seed: int) -> Rated | list[Gap]:
        """Take the step with the highest mean, over training domains, of the value on the one held out."""
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
        own_fold = results.folds[fold]
        why = "it and the runs with two test domains were evaluated at no common step"
        unmatched = Gap(single.run, row, dataset, own_fold.held_out, seed, trial, "damaged", why)
        return self._best_step(seed, own_fold, single, pairs) or [unmatched]

    @staticmethod
    def _best_step(seed: int, fold: Fold, single: Series, pairs: Sequence[tuple[View, Series]]) -> Rated | None:
        """Return the best step that all runs have; None if they have none in common."""
        own, *matching = _shared([single, *(run for _, run in pairs)])
        if not own:
            return None
        values = [run.column(view)[places] for (view, run), places in zip(pairs, matching, strict=True)]
        means = mean_of_rows(np.stack(values, axis=1))
        rated = [nan_as_worst(value) for value in means.tolist()]
        best = rated.index(max(rated))  # the earliest of steps that tie
        return Rated(single, fold, seed, own[best], rated[best])


def _shared(series: Sequence[Series]) -> list[list[int]]:
    """Return for each series the rows of the models that all of them have, in the order of the first."""
    if all(other.steps == series[0].steps and other.adapted == series[0].adapted for other in series):
        return [list(series[0].places.values())] * len(series)
    places = [each.places for each in series]
    common = [match for match in places[0] if all(match in table for table in places)]
    return [[table[match] for match in common] for table in places]
