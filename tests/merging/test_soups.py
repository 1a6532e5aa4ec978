from __future__ import annotations

import pytest
import torch

from dgbench.merging.diwa import DiWARestricted
from dgbench.merging.soups import GreedySoup, UniformSoup
from dgbench.methods.average import Weights
from tests.merging.toys import member, near, one, scores, tools


def greedy_soup() -> GreedySoup:
    return GreedySoup(GreedySoup.Hparams())


def test_greedy_with_hand_made_accuracies() -> None:
    """By their own accuracies ranked 1, 3, 0, 2: 3 ties and stays, 0 lowers and goes, 2 raises and stays."""
    table = {
        frozenset({0}): 0.60,
        frozenset({1}): 0.80,
        frozenset({2}): 0.50,
        frozenset({3}): 0.70,
        frozenset({1, 3}): 0.80,
        frozenset({1, 3, 0}): 0.79,
        frozenset({1, 3, 2}): 0.81,
    }
    merged = one(greedy_soup(), [member(i) for i in range(4)], tools(scores(table)))
    near(merged.weights["w"], torch.tensor([0, 1 / 3, 1 / 3, 1 / 3, 0], dtype=torch.float64), 1e-15)
    assert [kept.run for kept in merged.members] == ["run1", "run3", "run2"]


@pytest.mark.parametrize(("tied", "stays"), [(0.8, True), (0.8 - 1e-9, False)])
def test_a_tie_lets_in(tied: float, stays: bool) -> None:
    table = {frozenset({0}): 0.8, frozenset({1}): 0.7, frozenset({0, 1}): tied}
    merged = one(greedy_soup(), [member(0), member(1)], tools(scores(table)))
    assert (len(merged.members) == 2) is stays


def test_the_soup_ranks_by_the_pooled_accuracy_and_diwa_by_the_mean_over_domains() -> None:
    """Run 0 is better by domain, run 1 over the pooled examples; no mean of both is as good."""
    members = [member(0, accuracy=0.9), member(1, accuracy=0.8)]
    table = {frozenset({0}): 0.7, frozenset({1}): 0.75, frozenset({0, 1}): 0.6}
    soup = one(greedy_soup(), members, tools(scores(table)))
    diwa = one(DiWARestricted(DiWARestricted.Hparams()), members, tools(scores(table)))
    assert [kept.run for kept in soup.members] == ["run1"]
    assert [kept.run for kept in diwa.members] == ["run0"]


def test_equally_accurate_members_keep_their_order() -> None:
    def score(weights: Weights) -> float:
        return 0.5 if (weights["w"] > 0).sum() == 1 else 0.0

    merged = one(greedy_soup(), [member(i) for i in (3, 1, 2)], tools(score))
    assert [kept.run for kept in merged.members] == ["run3"]


def test_the_uniform_soup_asks_for_nothing_and_takes_the_last_count() -> None:
    merged = one(UniformSoup(UniformSoup.Hparams()), [member(4), member(2)], tools())
    assert merged.weights["count"].item() == 2
