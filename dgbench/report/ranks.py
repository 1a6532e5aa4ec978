"""Rank rows over data sets, by several rules: the winner may depend on the rule, and then neither has won.

Every function takes scores, (data sets, rows), higher is better, without NaN; ranks begin at 1 for the best. The rules
of social choice (Borda, Copeland, minimax, Kemeny) take each data set as a voter that orders the rows: "Vote'n'Rank"
(arXiv 2210.05769), "What are the best systems?" (arXiv 2202.03799). scipy is imported only inside functions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dgbench.core.errors import UserError

MOST_ROWS = 10
"""Rows up to which Kemeny's order is computed: exactly, over all orders."""

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Friedman:
    """Friedman's test of whether all rows rank alike, with the critical difference of Nemenyi's test after it."""

    statistic: float
    p: float
    critical_difference: float
    """Mean ranks that differ by at least this differ at the level 0.05."""
    refused: str = ""
    """Why there is no test; empty if there is."""


def mean_ranks(scores: ArrayLike) -> Scores:
    """Return the mean rank of each row over data sets, (rows,); rows that tie share the mean of their ranks."""
    from scipy import stats

    ranks: Scores = stats.rankdata(-_checked(scores), axis=1).mean(axis=0)
    return ranks


def friedman(scores: ArrayLike, level: float = 0.95) -> Friedman:
    """Test whether rows rank alike over data sets; return the critical difference of mean ranks (Demsar 2006)."""
    from scipy import stats

    values = _checked(scores)
    datasets, rows = values.shape
    if rows < 3 or datasets < 3:
        why = f"{rows} rows on {datasets} data sets: it takes 3 of each"
        return Friedman(math.nan, math.nan, math.nan, why)
    q = stats.studentized_range.ppf(level, rows, math.inf) / math.sqrt(2)
    difference = float(q * math.sqrt(rows * (rows + 1) / (6 * datasets)))
    if (values == values[:, :1]).all():  # all rows tie everywhere
        return Friedman(0.0, 1.0, difference)
    statistic, p = stats.friedmanchisquare(*values.T)
    return Friedman(float(statistic), float(p), difference)


def borda(scores: ArrayLike) -> Scores:
    """Return each row's points, (rows,): one for each row that it beats on a data set, half for each that it ties."""
    points: Scores = _wins(scores).sum(axis=1)
    return points


def copeland(scores: ArrayLike) -> Scores:
    """Return, (rows,), how many rows a row beats on the majority of data sets less how many so beat it."""
    margins = _margins(scores)
    balance: Scores = np.sign(margins).sum(axis=1)
    return balance


def minimax(scores: ArrayLike) -> Scores:
    """Return each row's worst duel, (rows,): the data sets that it wins less those that it loses."""
    margins = _margins(scores)
    np.fill_diagonal(margins, math.inf)
    worst: Scores = margins.min(axis=1) if len(margins) > 1 else np.zeros(1)
    return worst


def kemeny(scores: ArrayLike) -> tuple[int, ...]:
    """Return the order of rows, best first, that agrees with the most (data set, pair of rows) of all orders.

    Raises:
        UserError: There are more than `MOST_ROWS` rows.
    """
    margins = _margins(scores)
    rows = len(margins)
    if rows > MOST_ROWS:
        raise UserError(f"Kemeny's order is computed for at most {MOST_ROWS} rows, not {rows}: choose some")
    # Held and Karp's recursion: the best order of a set of rows is the best order of all but one, then that one.
    best: dict[int, tuple[float, tuple[int, ...]]] = {0: (0.0, ())}
    for members in range(1, 1 << rows):
        inside = [i for i in range(rows) if members >> i & 1]
        options = []
        for last in inside:
            value, order = best[members & ~(1 << last)]
            options.append((value + sum(margins[i, last] for i in inside if i != last), (*order, last)))
        best[members] = max(options, key=lambda option: (option[0], [-i for i in option[1]]))
    return best[(1 << rows) - 1][1]


def bradley_terry(scores: ArrayLike) -> Scores:
    """Return log strengths, (rows,), of mean 0: row i beats row j with probability 1 / (1 + exp(s_j - s_i)).

    A tie counts as half a win for each. All NaN where the likelihood has no maximum: some rows beat all others on every
    data set, so that their lead is without bound.
    """
    from scipy.optimize import minimize
    from scipy.sparse.csgraph import connected_components

    wins = _wins(scores)
    rows = len(wins)
    if connected_components(wins > 0, directed=True, connection="strong", return_labels=False) > 1:
        return np.full(rows, math.nan)

    def loss(strengths: Scores) -> tuple[float, Scores]:
        gaps = strengths[:, None] - strengths
        missed = wins / (1 + np.exp(gaps))  # derivative of the log likelihood, by the winner
        return float((wins * np.logaddexp(0, -gaps)).sum()), missed.sum(axis=0) - missed.sum(axis=1)

    found: Scores = minimize(loss, np.zeros(rows), jac=True, method="BFGS", options={"gtol": 1e-10}).x
    found -= found.mean()
    return found


def winners(scores: ArrayLike) -> dict[str, tuple[int, ...]]:
    """Return each rule -> the rows that it puts first, several if they tie.

    Kemeny's rule is left out above `MOST_ROWS` rows, Bradley-Terry where the strengths have no bound.
    """
    values = _checked(scores)
    by_rule = {
        "mean score": values.mean(axis=0),
        "mean rank": -mean_ranks(values),
        "Borda": borda(values),
        "Copeland": copeland(values),
        "minimax": minimax(values),
        "Bradley-Terry": bradley_terry(values),
    }
    first = {
        rule: tuple(np.flatnonzero(np.isclose(found, found.max(), rtol=0, atol=1e-9)).tolist())
        for rule, found in by_rule.items()
        if not np.isnan(found).any()
    }
    if values.shape[1] <= MOST_ROWS:
        first["Kemeny"] = kemeny(values)[:1]
    return first


def groups(ranks: Sequence[float] | Scores, difference: float) -> list[tuple[int, ...]]:
    """Return the largest groups of rows, best first, whose mean ranks differ by less than a critical difference."""
    order = np.argsort(ranks, kind="stable").tolist()
    found: list[tuple[int, ...]] = []
    for place, first in enumerate(order):
        group = tuple(i for i in order[place:] if ranks[i] - ranks[first] < difference)
        if len(group) > 1 and not any(set(group) <= set(other) for other in found):
            found.append(group)
    return found


def _checked(scores: ArrayLike) -> Scores:
    values = np.asarray(scores, float)
    if values.ndim != 2 or not values.size or np.isnan(values).any():
        raise UserError("ranks take a score of every row on every data set")
    return values


def _wins(scores: ArrayLike) -> Scores:
    """Return, (rows, rows), on how many data sets a row beats another; a tie counts half, for both."""
    values = _checked(scores)
    ahead, behind = values[:, :, None], values[:, None, :]
    wins = np.asarray((ahead > behind).sum(axis=0) + 0.5 * (ahead == behind).sum(axis=0), float)
    np.fill_diagonal(wins, 0)
    return wins


def _margins(scores: ArrayLike) -> Scores:
    """Return, (rows, rows), on how many more data sets a row beats another than the other way round."""
    wins = _wins(scores)
    margins: Scores = wins - wins.T
    return margins
