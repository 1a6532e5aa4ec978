"""Estimate how far a mean over trials can be trusted, and compare two rows in pairs.

A trial is an independent repetition of the whole experiment: splits, initial weights, draws of hyperparameters. All
rows of a trial share them, so two rows are compared by the differences within trials, which vary much less than the
rows do. Folds are not a sample: the domains of a data set are all that there are. So nothing is drawn over folds:
intervals resample trials, and the mean over folds is taken within each trial.

scipy is imported only inside functions: it takes longer to import than a table takes to print.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

LEVEL = 0.95
"""Confidence of all intervals."""
FEWEST = 3
"""Trials below which there is no interval and no test."""
RESAMPLES = 9999
"""Resamples of a bootstrap interval, drawn with a fixed seed: the same numbers give the same interval."""


@dataclass(frozen=True)
class Interval:
    """A mean with an interval around it, in the unit of the values; made by the functions of `ERRORS`."""

    mean: float
    """NaN without any value, or if some value is."""
    low: float = math.nan
    """NaN if refused."""
    high: float = math.nan
    """NaN if refused."""
    n: int = 0
    """Number of values."""
    refused: str = ""
    """Why there is no interval; empty if there is one."""

    @property
    def error(self) -> float:
        """Half of the width."""
        return (self.high - self.low) / 2


def standard_error(values: ArrayLike, ddof: int = 1) -> Interval:
    """Return the mean ± its standard error, std / sqrt(n), of values of (n,) trials; DomainBed's is with `ddof` 0."""
    found = _refusal(values, fewest=2)
    if found.refused:
        return found
    return _around(found, float(np.std(np.asarray(values, float), ddof=ddof)) / math.sqrt(found.n))


def spread(values: ArrayLike, ddof: int = 1) -> Interval:
    """Return the mean ± the standard deviation of (n,) repetitions of one setting, as WILDS reports; not its error."""
    found = _refusal(values, fewest=2)
    return found if found.refused else _around(found, float(np.std(np.asarray(values, float), ddof=ddof)))


def t_interval(values: ArrayLike) -> Interval:
    """Return the mean with Student's 95 % interval for values of (n,) trials."""
    found = _refusal(values)
    if found.refused:
        return found
    # Tables have such intervals too: `scipy.stats`, which has the same quantile, takes three times as long to import.
    from scipy import special

    error = float(np.std(np.asarray(values, float), ddof=1)) / math.sqrt(found.n)
    return _around(found, float(special.stdtrit(found.n - 1, (1 + LEVEL) / 2)) * error)


def coverage(n: int, ddof: int = 1) -> float:
    """Return how often the mean of n normal values ± its standard error, std / sqrt(n), covers the true mean.

    Args:
        n: Number of values, at least 2.
        ddof: Degrees of freedom that are subtracted in the standard deviation.
    """
    from scipy import special

    return 2 * float(special.stdtr(n - 1, math.sqrt((n - 1) / (n - ddof)))) - 1


def bootstrap_interval(*groups: ArrayLike) -> Interval:
    """Return the mean over groups of their means, with its 95 % percentile bootstrap interval.

    Args:
        *groups: The values of (n,) trials each, one group for each fold; resampled within the group.
    """
    from scipy import stats

    found = _refusal(np.concatenate([np.atleast_1d(np.asarray(group, float)) for group in groups]))
    fewest = min(len(np.atleast_1d(group)) for group in groups)
    if found.refused or fewest < FEWEST:
        return found if found.refused else Interval(found.mean, n=found.n, refused=too_few(fewest))
    arrays = [np.asarray(group, float) for group in groups]
    mean = float(np.mean([array.mean() for array in arrays]))
    if all(np.ptp(array) == 0 for array in arrays):  # nothing to resample
        return Interval(mean, mean, mean, found.n)
    drawn = stats.bootstrap(
        arrays,
        _mean_of_means,
        n_resamples=RESAMPLES,
        confidence_level=LEVEL,
        method="percentile",
        rng=0,
        vectorized=True,
    )
    low, high = drawn.confidence_interval
    return Interval(mean, float(low), float(high), found.n)


ERRORS: Mapping[str, Callable[[ArrayLike], Interval]] = {
    "standard-error": standard_error,
    "t-interval": t_interval,
    "bootstrap-interval": bootstrap_interval,
    "std": spread,
}
"""Name -> a meaning of ±. The first is the standard error of DomainBed's tables, the last the spread of WILDS'."""


@dataclass(frozen=True)
class Paired:
    """The comparison of two rows by their differences, first minus second, in the unit of the scores."""

    difference: float
    """Mean over folds and trials."""
    by_trial: Interval
    """Student's interval over trials, of the mean over folds within each."""
    resampled: Interval
    """Bootstrap interval; trials resampled within folds."""
    p: float
    """Wilcoxon's signed-rank test over fold x trial, two-sided; NaN if refused."""
    pairs: int
    """Number of differences: folds x trials."""
    trials: int
    refused: str = ""
    """Why there is no interval and no test; empty if there is."""


def compare(first: ArrayLike, second: ArrayLike) -> Paired:
    """Compare two rows by their differences within trials and folds.

    Args:
        first: Scores of one row, (trials, folds).
        second: Those of the other, in the same order.
    """
    differences = np.atleast_2d(np.asarray(first, float) - np.asarray(second, float))
    trials, folds = differences.shape
    means = differences.mean(axis=1)
    by_trial = t_interval(means)
    resampled = bootstrap_interval(*differences.T)
    refused = by_trial.refused
    p = math.nan
    if not refused:
        p = _signed_rank_p(differences.ravel())
    return Paired(float(differences.mean()), by_trial, resampled, p, trials * folds, trials, refused)


def _signed_rank_p(differences: NDArray[np.float64]) -> float:
    """Return the two-sided p of Wilcoxon's signed-rank test, exactly for few pairs; 1 if nothing differs."""
    from scipy import stats

    kept = differences[differences != 0]
    if len(kept) < 2:
        return 1.0
    size = np.abs(kept)
    if len(differences) <= _MOST_PERMUTED and (len(kept) < len(differences) or len(np.unique(size)) < len(kept)):
        # What scipy's own test does with ties, a thousand times faster: it ranks anew for each of 2^n signs.
        signed = np.sign(kept) * stats.rankdata(size)
        found = stats.permutation_test(
            (signed,), np.sum, permutation_type="samples", vectorized=True, n_resamples=np.inf
        )
        return float(found.pvalue)
    return float(stats.wilcoxon(differences).pvalue)


_MOST_PERMUTED = 13
"""Pairs up to which ties are tested by all permutations of signs; of more, scipy takes the normal approximation."""


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Return p-values of several tests corrected by Holm's step-down method, in their order; NaN is no test."""
    values = np.asarray(p_values, float)
    corrected = np.full(values.shape, np.nan)
    tested = np.flatnonzero(~np.isnan(values))
    order = tested[np.argsort(values[tested], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(1, np.maximum.accumulate(factors * values[order]))
    return corrected


def tied_with_best(scores: ArrayLike) -> NDArray[np.bool_]:
    """Return for each row whether it is tied with the best one.

    Args:
        scores: (rows, trials, folds).

    Returns:
        (rows,): True for the row of the highest mean, and for those whose difference from it has a p-value of 0.05 or
        more by Wilcoxon's test, after Holm's correction, or can't be tested. False where a score is NaN.
    """
    values = np.asarray(scores, float)
    means = values.mean(axis=(1, 2))
    if np.isnan(means).all():
        return np.zeros(len(means), bool)
    best = int(np.nanargmax(means))
    p = [math.nan if i == best or np.isnan(means[i]) else compare(values[best], values[i]).p for i in range(len(means))]
    told_apart: NDArray[np.bool_] = np.isnan(means) | (holm(p) < 1 - LEVEL)
    return ~told_apart


def trials_to_settle(differences: Sequence[float], size: float, power: float = 0.8) -> int | None:
    """Return how many trials a paired t-test needs, in all, to find a difference of a given size.

    Args:
        differences: Between two rows, of the trials that there are; they tell how much differences vary.
        size: The true difference, in their unit.
        power: Probability of finding it at the level 0.05.

    Returns:
        The number of trials, at least 2; None for fewer than three differences, which don't tell.
    """
    from scipy import stats

    if len(differences) < FEWEST:
        return None
    deviation = float(np.std(differences, ddof=1))
    if deviation == 0:
        return 2

    def found(n: int) -> bool:
        critical, shift = stats.t.ppf((1 + LEVEL) / 2, n - 1), size / deviation * math.sqrt(n)
        return bool(stats.nct.sf(critical, n - 1, shift) + stats.nct.cdf(-critical, n - 1, shift) >= power)

    low, high = 1, 2
    while not found(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if found(middle) else (middle, high)
    return high


def sampling_error(accuracy: float, examples: int) -> float:
    """Return the standard error of an accuracy in [0, 1] that is due to the number of test examples alone.

    NaN for an accuracy outside, which is no number, or if the number of examples is 0, which is unknown.
    """
    if not examples or not 0 <= accuracy <= 1:
        return math.nan
    return math.sqrt(accuracy * (1 - accuracy) / examples)


def _mean_of_means(*samples: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
    means: NDArray[np.float64] = np.mean([sample.mean(axis=axis) for sample in samples], axis=0)
    return means


def _around(found: Interval, width: float) -> Interval:
    return Interval(found.mean, found.mean - width, found.mean + width, found.n)


def _refusal(values: ArrayLike, fewest: int = FEWEST) -> Interval:
    """Return the mean, with a reason if there is no interval around it."""
    array = np.atleast_1d(np.asarray(values, float))
    mean = float(array.mean()) if len(array) else math.nan
    if len(array) < fewest:
        return Interval(mean, n=len(array), refused=too_few(len(array), fewest))
    return Interval(mean, n=len(array), refused="" if np.isfinite(array).all() else "a value is no number")


def too_few(n: int, fewest: int = FEWEST) -> str:
    """Say that n trials are fewer than it takes."""
    return f"{n} trial{'' if n == 1 else 's'}, of {fewest} that it takes"
