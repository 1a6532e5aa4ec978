"""Means and errors, in DomainBed's numbers and in the usual ones."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dgbench.core.stats import Estimate, average, estimate, nan_as_worst


def test_domainbeds_own_example() -> None:
    assert str(estimate([0.1, 0.2, 0.3], ddof=0)) == "20.0 +/- 4.7"


def test_the_usual_standard_error_is_larger() -> None:
    assert str(estimate([0.1, 0.2, 0.3], ddof=1)) == "20.0 +/- 5.8"


def test_numbers_and_count() -> None:
    found = estimate([0.5, 0.7], ddof=1)
    assert found.mean == pytest.approx(60)
    assert found.error == pytest.approx(100 * np.std([0.5, 0.7], ddof=1) / np.sqrt(2))
    assert found.n == 2


@pytest.mark.parametrize("ddof", [0, 1])
def test_one_trial_has_no_error(ddof: int) -> None:
    assert estimate([0.123], ddof) == Estimate(mean=12.3, error=None, n=1)
    assert str(estimate([0.123], ddof)) == "12.3"


def test_an_average_is_plain() -> None:
    assert average([1.0, 2.0, 6.0]) == 3.0


def test_what_is_no_number_ranks_below_all_numbers() -> None:
    assert [nan_as_worst(value) for value in (0.5, -2.0, 0.0)] == [0.5, -2.0, 0.0]
    assert [nan_as_worst(value) for value in (math.nan, math.inf, -math.inf)] == [-math.inf] * 3


def test_a_mean_over_a_trial_that_diverged_says_so() -> None:
    assert str(estimate([0.5, math.nan], ddof=0)) == str(estimate([math.nan], ddof=0)) == "diverged"
