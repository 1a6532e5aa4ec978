"""Measure model selection itself: the accuracy that a selector loses, and the gain of searching more.

A selector is as good as its scores agree with the test domain. These functions measure that: accuracy lost against the
oracle, correlation of validation and test accuracy over all models that were evaluated, and the expected result of a
search with fewer draws. scipy is imported only inside functions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dgbench.core.protocol import Fold
from dgbench.report.results import Results, Series
from dgbench.report.select import Oracle, Pick, Rated, Selector
from dgbench.report.selectors import SELECTORS


@dataclass(frozen=True)
class Loss:
    """Scores of a selector's choice at one spot, of the oracle's choice, and of the best model that there was."""

    row: str
    dataset: str
    fold: int
    trial: int
    score: float
    """Of the selector's choice, on the test views."""
    oracle: float
    """Of the oracle's choice: the last step of the draw that is best on labeled data of the test domain."""
    best: float
    """Of the best model that there was, over all draws and steps: the most that any selector could have found."""


def losses(results: Results, selector: Selector, dataset: str) -> Iterator[Loss]:
    """Yield the loss at each row, fold and trial of a data set at which both the selector and the oracle chose."""
    oracle = SELECTORS[Oracle.name]
    if selector.unavailable(results, dataset) or oracle.unavailable(results, dataset):
        return
    for row in results.rows:
        for position in results.reported(dataset):
            for trial in trials_at(results, row, dataset, position):
                mine = selector.choose(results, row, dataset, position, trial).pick
                theirs = oracle.choose(results, row, dataset, position, trial).pick
                if mine and theirs:
                    best = _best(results, row, dataset, position, trial)
                    yield Loss(row, dataset, position, trial, mine.score, theirs.score, best)


def trials_at(results: Results, row: str, dataset: str, position: int) -> list[int]:
    """Return the trials that a row has at a fold."""
    spots = results.candidates.get((row, dataset), {})
    return sorted(trial for fold, trial in spots if fold == position)


def _best(results: Results, row: str, dataset: str, position: int, trial: int) -> float:
    """Return the highest score on the test views over all draws and steps."""
    found = results.at(row, dataset, (position, trial)).values()
    test = results.folds[position].test
    scores = [series.mean(test) for series in found if isinstance(series, Series)]
    return float(np.nanmax(np.concatenate(scores))) if scores else math.nan


@dataclass(frozen=True)
class Correlation:
    """How validation and test accuracy go together over models."""

    pearson: float
    spearman: float
    models: int
    refused: str = ""
    """Why there is none; empty if there is."""


def correlation(validation: ArrayLike, test: ArrayLike) -> Correlation:
    """Return the correlations of two accuracies over (n,) models, without models of a value that is no number."""
    from scipy import stats

    x, y = np.asarray(validation, float), np.asarray(test, float)
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        why = f"{len(x)} models" if len(x) < 3 else "all of one accuracy"
        return Correlation(math.nan, math.nan, len(x), why)
    return Correlation(float(stats.pearsonr(x, y).statistic), float(stats.spearmanr(x, y).statistic), len(x))


def model_scores(
    results: Results, row: str, dataset: str, position: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean accuracy on the training domains' validation parts, and on the test views, of all models.

    Returns:
        Two arrays, (models,): every step of every finished run of the row at the fold, over all trials and draws. Both
        are empty where the fold has no validation parts.
    """
    fold = results.folds[position]
    pairs = [_scores(series, fold) for series in _series(results, row, dataset, position)]
    empty = np.empty(0)
    validation = np.concatenate([empty, *(found[0] for found in pairs)])
    return validation, np.concatenate([empty, *(found[1] for found in pairs)])


def _series(results: Results, row: str, dataset: str, position: int) -> Iterator[Series]:
    for trial in trials_at(results, row, dataset, position):
        for candidate in results.at(row, dataset, (position, trial)).values():
            if isinstance(candidate, Series):
                yield candidate


def _scores(series: Series, fold: Fold) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if not fold.source_val or not set(fold.source_val) <= set(series.views):
        return np.empty(0), np.empty(0)
    return series.mean(fold.source_val), series.mean(fold.test)


@dataclass(frozen=True)
class Curve:
    """Results of a search with 1 to n draws, over all subsets of the draws that there are."""

    mean: NDArray[np.float64]
    """(n,): expected score for each number of draws."""
    std: NDArray[np.float64]
    """(n,): standard deviation over subsets; 0 for all n draws, of which there is one subset."""


def search_curve(values: Sequence[float], scores: Sequence[float]) -> Curve:
    """Return the result of a search as a function of the number of its draws, exactly.

    The draw that is chosen among k is the best of them by `values`; each subset of k draws is equally likely. So a draw
    with r worse ones is chosen in C(r, k - 1) of C(n, k) subsets.

    Args:
        values: What each of the n draws is chosen by, in the order of hyperparameter seeds. The later of equals is
            chosen, as selectors do.
        scores: What each would have reported.
    """
    n = len(values)
    order = sorted(range(n), key=lambda i: (values[i], i))  # the worst first
    ranked = np.asarray(scores, float)[order]
    chances = np.array([[math.comb(worse, k - 1) / math.comb(n, k) for worse in range(n)] for k in range(1, n + 1)])
    mean = chances @ ranked if n else np.empty(0)
    variance = np.array([chance @ (ranked - center) ** 2 for chance, center in zip(chances, mean, strict=True)])
    return Curve(mean, np.sqrt(variance))


def draws(results: Results, selector: Selector, row: str, dataset: str, position: int, trial: int) -> list[Pick]:
    """Return the best step of each draw that a selector can rate at a spot, in the order of hyperparameter seeds."""
    seeds = sorted(results.at(row, dataset, (position, trial)))
    rated = (selector.rate(results, row, dataset, position, trial, seed) for seed in seeds)
    return [Pick.of(found) for found in rated if isinstance(found, Rated)]


def candidates(results: Results, selector: Selector, row: str, dataset: str, position: int, trial: int) -> int:
    """Return the number of models among which a selector chooses at a spot: draws times evaluated steps.

    Rows that search among more look better for it: on the same runs ERM has 360 models to choose from where DiWA has 1.
    """
    if results.of_all_trials(row, [dataset]):
        return 1
    seeds = results.at(row, dataset, (position, trial))
    models = [selector.models(results, row, dataset, position, trial, seed) or 0 for seed in seeds]
    return sum(min(n, 1) for n in models) if selector.last_only else sum(models)
