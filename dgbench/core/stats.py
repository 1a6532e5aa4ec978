"""Compute means over trials and their standard errors, in percent, as DomainBed computes and prints them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


def nan_as_worst(value: float) -> float:
    """Return `value`, or minus infinity if it is not finite, so that a diverged run compares as the worst."""
    return value if math.isfinite(value) else -math.inf


def mean_of_rows(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of each row, (rows, columns) -> (rows,), to the bit as `np.mean` and in half of its time."""
    means: NDArray[np.float64] = np.add.reduce(values, axis=1) / values.shape[1]
    return means


@dataclass(frozen=True)
class Estimate:
    """A mean over `n` trials with its standard error, both in percent."""

    mean: float
    """In percent; NaN if any trial's value is."""
    error: float | None
    """Standard error in percent; None for a single trial, which has none."""
    n: int
    """Number of trials."""

    def __str__(self) -> str:
        if math.isnan(self.mean):
            return "diverged"
        return f"{self.mean:.1f}" if self.error is None else f"{self.mean:.1f} +/- {self.error:.1f}"


def estimate(values: Sequence[float], ddof: int) -> Estimate:
    """Return the mean over trials and its standard error, std / sqrt(n).

    The order of operations is DomainBed's, so that no digit differs. DomainBed prints an error of 0 for one trial; this
    has none.

    Args:
        values: Accuracies in [0, 1], one for each trial.
        ddof: Delta degrees of freedom of the standard deviation, as in `numpy.std`.
    """
    n = len(values)
    mean = float(100 * np.mean(values))
    if n < 2:
        return Estimate(mean, None, n)
    return Estimate(mean, float(100 * np.std(np.asarray(values) / np.sqrt(n), ddof=ddof)), n)


def average(means: Sequence[float]) -> float:
    """Return the unweighted mean of means that are in percent already, summed in order."""
    return sum(means) / len(means)
