"""Ranks against brute force, published tables and the conditions that define them."""

from __future__ import annotations

import math
from itertools import combinations, permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from dgbench.core.errors import UserError
from dgbench.report.ranks import (
    borda,
    bradley_terry,
    copeland,
    friedman,
    groups,
    kemeny,
    mean_ranks,
    minimax,
    winners,
)


@st.composite
def tables(draw: Any, most_rows: int = 6, most_sets: int = 6) -> NDArray[np.float64]:
    rows, sets = draw(st.integers(2, most_rows)), draw(st.integers(1, most_sets))
    values = draw(st.lists(st.integers(0, 5), min_size=rows * sets, max_size=rows * sets))
    return np.array(values, float).reshape(sets, rows)


def wins(scores: NDArray[np.float64], i: int, j: int) -> float:
    return float(sum((line[i] > line[j]) + 0.5 * (line[i] == line[j]) for line in scores))


@given(tables())
def test_the_rules_by_their_definitions(scores: NDArray[np.float64]) -> None:
    sets, rows = scores.shape
    others = [[j for j in range(rows) if j != i] for i in range(rows)]
    margins = [[wins(scores, i, j) - wins(scores, j, i) for j in others[i]] for i in range(rows)]
    assert borda(scores).tolist() == [sum(wins(scores, i, j) for j in others[i]) for i in range(rows)]
    assert copeland(scores).tolist() == [sum(np.sign(found)) for found in margins]
    assert minimax(scores).tolist() == [min(found) for found in margins]
    # A rank is 1, 1 for each better row, and 1/2 for each that ties: so Borda's count is the mean rank, turned round.
    assert mean_ranks(scores).tolist() == pytest.approx([rows - points / sets for points in borda(scores)])


@settings(max_examples=60, deadline=None)
@given(tables(most_rows=5))
def test_kemenys_order_is_the_best_of_all(scores: NDArray[np.float64]) -> None:
    def agreement(order: tuple[int, ...]) -> float:
        return sum(wins(scores, i, j) for i, j in combinations(order, 2))

    found = kemeny(scores)
    assert sorted(found) == list(range(scores.shape[1]))
    assert agreement(found) == max(map(agreement, permutations(range(scores.shape[1]))))


def test_kemeny_is_exact_to_ten_rows_and_refused_above() -> None:
    scores = np.tile(np.arange(10.0), (3, 1))
    assert kemeny(scores) == tuple(range(9, -1, -1))
    with pytest.raises(UserError, match="at most 10 rows, not 11"):
        kemeny(np.zeros((3, 11)))


@settings(max_examples=40, deadline=None)
@given(tables(most_rows=5))
def test_bradley_terry_expects_the_wins_that_there_were(scores: NDArray[np.float64]) -> None:
    """The likelihood is greatest where each row's expected wins are its wins."""
    found = bradley_terry(scores)
    sets, rows = scores.shape
    won = np.array([sum(wins(scores, i, j) for j in range(rows) if j != i) for i in range(rows)])
    if np.isnan(found).any():
        clear = [s for n in range(1, rows) for s in combinations(range(rows), n) if _beat_all(scores, s)]
        assert clear, "some rows beat all others everywhere"
        return
    chance = 1 / (1 + np.exp(found - found[:, None]))
    expected = sets * (chance.sum(axis=1) - 0.5)
    assert expected.tolist() == pytest.approx(won.tolist(), abs=1e-5)
    assert found.sum() == pytest.approx(0, abs=1e-9)


def _beat_all(scores: NDArray[np.float64], some: tuple[int, ...]) -> bool:
    rest = [i for i in range(scores.shape[1]) if i not in some]
    return all(wins(scores, j, i) == 0 for i in some for j in rest)


def test_bradley_terry_of_two_rows() -> None:
    scores = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    strong, weak = bradley_terry(scores)
    assert strong - weak == pytest.approx(math.log(3))
    assert np.isnan(bradley_terry(scores[:3])).all()


# Demsar 2006, table 6: C4.5, with m, with cf, and with both, on 14 data sets; .9751 as its ranks tell two .975 apart.
DEMSAR = """0.763 0.768 0.771 0.798
0.599 0.591 0.590 0.569
0.954 0.971 0.968 0.967
0.628 0.661 0.654 0.657
0.882 0.888 0.886 0.898
0.936 0.931 0.916 0.931
0.661 0.668 0.609 0.685
0.583 0.583 0.563 0.625
0.775 0.838 0.866 0.875
1.000 1.000 1.000 1.000
0.940 0.962 0.965 0.962
0.619 0.666 0.614 0.669
0.972 0.981 0.9751 0.975
0.957 0.978 0.946 0.970"""


def test_the_example_of_demsar() -> None:
    scores = np.array([line.split() for line in DEMSAR.splitlines()], float)
    assert mean_ranks(scores).round(3).tolist() == [3.143, 2.0, 2.893, 1.964]
    found = friedman(scores)
    assert found.critical_difference == pytest.approx(2.569 * math.sqrt(4 * 5 / (6 * 14)), abs=1e-3)
    assert found.statistic == pytest.approx(stats.friedmanchisquare(*scores.T).statistic)
    assert found.p < 0.05
    assert groups(mean_ranks(scores), found.critical_difference) == [(3, 1, 2, 0)]
    assert groups(mean_ranks(scores), 1.0) == [(3, 1, 2), (2, 0)]


@pytest.mark.parametrize(("rows", "q"), [(3, 2.343), (5, 2.728), (10, 3.164)])
def test_the_critical_values_of_nemenyi(rows: int, q: float) -> None:
    found = friedman(np.random.default_rng(0).random((12, rows)))
    assert found.critical_difference == pytest.approx(q * math.sqrt(rows * (rows + 1) / 72), abs=1e-3)


def test_too_little_to_rank() -> None:
    assert friedman(np.zeros((2, 3))).refused == "3 rows on 2 data sets: it takes 3 of each"
    assert friedman(np.zeros((3, 2))).refused
    assert friedman(np.zeros((4, 3))).p == 1.0
    with pytest.raises(UserError, match="a score of every row on every data set"):
        mean_ranks(np.array([[1.0, math.nan]]))


def test_the_winner_may_depend_on_the_rule() -> None:
    scores = np.array([[1.0, 0.9, 0.0], [1.0, 0.9, 0.0], [1.0, 0.9, 0.0], [0.0, 0.9, 0.5], [0.0, 0.9, 0.5]])
    found = winners(scores)
    assert found["mean score"] == (1,)
    assert found["Copeland"] == found["Kemeny"] == found["minimax"] == (0,)
    assert found["Borda"] == (1,)


@given(tables())
@settings(max_examples=30, deadline=None)
def test_a_row_that_wins_everywhere_wins_by_every_rule(scores: NDArray[np.float64]) -> None:
    scores[:, 0] = 6
    assert set(winners(scores).values()) == {(0,)}
