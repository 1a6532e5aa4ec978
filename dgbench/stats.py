"""Means over trials and how sure they are, in per cent, as DomainBed computes and prints them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Estimate:
    """A mean over `n` trials with its standard error, both in per cent; one trial has no error."""

    mean: float
    error: float | None
    n: int

    def __str__(self) -> str:
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
