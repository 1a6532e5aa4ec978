"""Intervals, paired tests and their refusals, against closed forms, scipy's other doors and published numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dgbench.report import statistics
from dgbench.report.statistics import (
    ERRORS,
    bootstrap_interval,
    compare,
    holm,
    sampling_error,
    standard_error,
    t_interval,
    tied_with_best,
    trials_to_settle,
)

SCORES = st.lists(st.integers(0, 100).map(lambda value: value / 100), min_size=3, max_size=8)


@given(SCORES)
def test_the_standard_error_is_the_one_of_tables(values: list[float]) -> None:
    for ddof in (0, 1):
        found = standard_error(values, ddof)
        assert found.error == pytest.approx(np.std(np.asarray(values) / np.sqrt(len(values)), ddof=ddof), abs=1e-12)
        assert found.mean == pytest.approx(np.mean(values), abs=1e-12)


@given(SCORES)
def test_the_t_interval_is_that_of_a_t_test(values: list[float]) -> None:
    found = t_interval(values)
    if np.ptp(values) == 0:
        assert found.low == pytest.approx(found.mean) == found.high
        return
    low, high = stats.ttest_1samp(values, 0).confidence_interval(statistics.LEVEL)
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-9), pytest.approx(high, abs=1e-9))


def test_the_t_interval_of_three_trials_by_hand() -> None:
    found = t_interval([1.0, 2.0, 3.0])
    assert found.error == pytest.approx(4.302653 / math.sqrt(3), abs=1e-6)  # the table's t for 2 degrees of freedom


def test_one_standard_error_of_three_trials_covers_58_percent() -> None:
    assert stats.t.cdf(1, 2) - stats.t.cdf(-1, 2) == pytest.approx(0.577, abs=1e-3)
    draws = np.random.default_rng(0).normal(size=(4000, 3))
    covered = [abs(found.mean) < found.error for found in map(standard_error, draws)]
    assert np.mean(covered) == pytest.approx(0.577, abs=0.03)


@settings(max_examples=15, deadline=None)
@given(SCORES)
def test_the_bootstrap_interval_lies_among_the_values(values: list[float]) -> None:
    found = bootstrap_interval(values)
    assert min(values) - 1e-12 <= found.low <= found.high <= max(values) + 1e-12
    assert found == bootstrap_interval(values), "the same values give the same interval"


def test_the_bootstrap_of_three_trials_is_exact_enough() -> None:
    """Of 27 equally likely resamples of 0, 0, 3 the mean is 0 in 8 and 3 in 1: more than 2.5 % each."""
    found = bootstrap_interval([0.0, 0.0, 3.0])
    assert (found.low, found.mean, found.high) == (0.0, 1.0, 3.0)


def test_the_bootstrap_over_folds_resamples_within_each() -> None:
    found = bootstrap_interval([0.0, 0.0, 0.0], [10.0, 10.0, 10.0])
    assert (found.mean, found.low, found.high) == (5.0, 5.0, 5.0), "folds differ, trials don't"
    rng = np.random.default_rng(0)
    groups = [rng.normal(size=200), rng.normal(5, 2, size=200)]
    error = math.sqrt(sum(group.var() / 200 for group in groups)) / 2
    assert bootstrap_interval(*groups).error == pytest.approx(1.96 * error, rel=0.05)


@pytest.mark.parametrize("name", ERRORS)
def test_too_few_trials_are_refused_with_a_line(name: str) -> None:
    fewest = 2 if name in ("standard-error", "std") else 3
    for n in range(1, fewest):
        found = ERRORS[name]([0.5] * n)
        assert math.isnan(found.error)
        assert found.mean == 0.5
        assert found.refused == f"{n} trial{'s' * (n > 1)}, of {fewest} that it takes"
    assert not ERRORS[name]([0.5, 0.6, 0.7]).refused
    assert ERRORS[name]([0.5, math.nan, 0.7]).refused == "a value is no number"


def test_pairs_show_what_the_spread_of_rows_hides() -> None:
    trials = np.array([[20.0], [33.0], [45.0]])
    found = compare(trials - 7 + np.array([[0.4], [0.0], [-0.4]]), trials)
    assert found.difference == pytest.approx(-7)
    assert found.by_trial.high < -6 < 0, "the difference is clear"
    assert t_interval(trials.ravel()).error > 30, "the rows are not"
    assert (found.trials, found.pairs) == (3, 3)


@given(st.integers(3, 6), st.integers(1, 4), st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_a_comparison_is_that_of_scipy(trials: int, folds: int, seed: int) -> None:
    first, second = np.random.default_rng(seed).random((2, trials, folds))
    found = compare(first, second)
    test = stats.ttest_rel(first.mean(axis=1), second.mean(axis=1)).confidence_interval(statistics.LEVEL)
    assert (found.by_trial.low, found.by_trial.high) == (pytest.approx(test[0]), pytest.approx(test[1]))
    assert found.p == pytest.approx(stats.wilcoxon(first.ravel(), second.ravel()).pvalue)
    assert found.resampled.low <= found.difference <= found.resampled.high
    back = compare(second, first)
    assert (back.difference, back.p) == (pytest.approx(-found.difference), pytest.approx(found.p))


def test_wilcoxons_exact_p_by_counting() -> None:
    """Six positive differences: 2 of the 2 ** 6 assignments of signs are as extreme."""
    found = compare(np.array([1.0, 2, 3, 4, 5, 6]).reshape(3, 2), np.zeros((3, 2)))
    assert found.p == pytest.approx(2 / 2**6)


def test_equal_rows_and_few_trials() -> None:
    scores = np.arange(6.0).reshape(3, 2)
    same = compare(scores, scores)
    assert (same.difference, same.p, same.by_trial.low, same.by_trial.high) == (0.0, 1.0, 0.0, 0.0)
    few = compare(scores[:2], scores[:2] + 1)
    assert few.difference == -1
    assert math.isnan(few.p)
    assert few.refused == "2 trials, of 3 that it takes"


def test_holms_correction_as_published() -> None:
    found = holm([0.01, 0.04, 0.03, 0.005])
    assert found.tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, math.nan, 0.9]).tolist()[0] == 1.0
    assert np.isnan(holm([0.5, math.nan])[1])
    assert holm([]).size == 0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_no_correction_and_bonferronis(p_values: list[float]) -> None:
    found = holm(p_values)
    assert (found >= np.asarray(p_values)).all()
    assert (found <= np.minimum(1, len(p_values) * np.asarray(p_values)) + 1e-12).all()
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(found[order]) >= 0).all()


def test_ties_with_the_best() -> None:
    rng = np.random.default_rng(0)
    trials = rng.normal(50, 10, size=(3, 4))
    noise = [rng.normal(0, 0.3, size=(3, 4)) for _ in range(3)]
    scores = np.stack([trials + noise[0], trials + noise[1], trials - 5 + noise[2], np.full((3, 4), np.nan)])
    assert tied_with_best(scores).tolist() == [True, True, False, False]
    assert tied_with_best(scores[:, :1]).tolist() == [True, True, True, False], "one trial tells none apart"
    assert tied_with_best(scores[3:]).tolist() == [False]


@pytest.mark.parametrize(("effect", "expected"), [(0.2, 199), (0.5, 34), (0.8, 15)])
def test_trials_to_settle_are_those_of_power_tables(effect: float, expected: int) -> None:
    differences = [-1.0, 0.0, 1.0]  # of standard deviation 1
    assert trials_to_settle(differences, effect) == expected


def test_trials_to_settle_at_the_ends() -> None:
    assert trials_to_settle([1.0, 2.0], 1) is None
    assert trials_to_settle([1.0, 1.0, 1.0], 1) == 2
    assert (trials_to_settle([0.0, 0.1, 0.2], 1) or 0) <= 3


def test_the_error_of_a_test_sets_size() -> None:
    assert sampling_error(0.5, 100) == 0.05
    assert sampling_error(0.9, 360) == pytest.approx(0.0158, abs=1e-4)
    assert math.isnan(sampling_error(0.5, 0))


@pytest.mark.parametrize("decimals", [1, 2])
@pytest.mark.parametrize("pairs", [3, 6, 9])
def test_ties_are_tested_as_scipy_tests_them(pairs: int, decimals: int) -> None:
    rng = np.random.default_rng(pairs)
    for _ in range(4):
        differences = np.round(rng.normal(0.1, 0.1, (3, pairs // 3)), decimals)
        if np.count_nonzero(differences) > 1:
            expected = stats.wilcoxon(differences.ravel()).pvalue
            assert compare(differences, np.zeros_like(differences)).p == pytest.approx(expected, abs=1e-12)
