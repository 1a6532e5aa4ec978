"""Means over trials and how sure they are, in per cent, as DomainBed computes and prints them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


def nan_as_worst(value: float) -> float:
    """A value as it is compared with others: one that is no number, of a run that diverged, is the worst there is."""
    return value if math.isfinite(value) else -math.inf


@dataclass(frozen=True)
class Estimate:
    """A mean over `n` trials with its standard error, both in per cent; one trial has no error.

    NaN where a trial's value is no number.
    """

    mean: float
    error: float | None
    n: int

    def __str__(self) -> str:
        if math.isnan(self.mean):
            return "diverged"
        return f"{self.mean:.1f}" if self.error is None else f"{self.mean:.1f} +/- {self.error:.1f}"


def estimate(values: Sequence[float], ddof: int) -> Estimate:
    """From accuracies between 0 and 1, one a trial: mean and std / sqrt(n), `ddof` as in `numpy.std`.

    The order of operations is DomainBed's, so that no digit differs; unlike DomainBed's, one trial has no error.
    """
    n = len(values)
    mean = float(100 * np.mean(values))
    if n < 2:
        return Estimate(mean, None, n)
    return Estimate(mean, float(100 * np.std(np.asarray(values) / np.sqrt(n), ddof=ddof)), n)


def average(means: Sequence[float]) -> float:
    """The plain mean of means that are in per cent already, summed in order."""
    return sum(means) / len(means)
