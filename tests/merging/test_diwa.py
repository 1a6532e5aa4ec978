from __future__ import annotations

import gc

import pytest
import torch

from dgbench.merging.diwa import DiWA, DiWARestricted
from dgbench.merging.soups import GreedySoup, UniformSoup
from dgbench.methods.average import Weights
from dgbench.methods.merger import Member, Merger
from tests.merging.toys import made, member, near, one, scores, tools


@pytest.mark.parametrize("merger", [DiWA, UniformSoup])
def test_uniform_mean(merger: type[Merger]) -> None:
    members = [member(i) for i in range(5)]
    merged = one(merger(merger.Hparams()), members, tools())
    near(merged.weights["w"], torch.full((5,), 0.2, dtype=torch.float64), 1e-15)
    assert merged.members == members


def test_greedy_keeps_what_does_not_lower_the_score() -> None:
    """Ranked 2, 0, 3, 1: 0 ties and stays, 3 lowers and goes, 1 raises above the best of the kept and stays."""
    members = [member(0, 0.8), member(1, 0.6), member(2, 0.9), member(3, 0.7)]
    table = {
        frozenset({2}): 0.70,
        frozenset({2, 0}): 0.70,
        frozenset({2, 0, 3}): 0.69,
        frozenset({2, 0, 1}): 0.71,
    }
    merged = one(DiWARestricted(DiWARestricted.Hparams()), members, tools(scores(table)))
    near(merged.weights["w"], torch.tensor([1 / 3, 1 / 3, 1 / 3, 0, 0], dtype=torch.float64), 1e-15)
    assert [kept.run for kept in merged.members] == ["run2", "run0", "run1"]


def test_greedy_compares_with_the_best_so_far_not_with_the_last_tried() -> None:
    members = [member(0, 0.9), member(1, 0.8), member(2, 0.7)]
    table = {frozenset({0}): 0.7, frozenset({0, 1}): 0.5, frozenset({0, 2}): 0.6}
    merged = one(DiWARestricted(DiWARestricted.Hparams()), members, tools(scores(table)))
    assert merged.weights["w"].tolist() == [1, 0, 0, 0, 0]
    assert [kept.run for kept in merged.members] == ["run0"]


def test_greedy_keeps_the_order_of_equally_accurate_runs() -> None:
    seen: list[list[int]] = []

    def score(weights: Weights) -> float:
        seen.append(weights["w"].nonzero().flatten().tolist())
        return float(len(seen))

    one(DiWARestricted(DiWARestricted.Hparams()), [member(i) for i in (3, 1, 2)], tools(score))
    assert seen == [[3], [1, 3], [1, 2, 3]]


@pytest.mark.parametrize(("merger", "most"), [(DiWA, 2), (UniformSoup, 2), (DiWARestricted, 3), (GreedySoup, 3)])
def test_members_are_streamed(merger: type[Merger], most: int) -> None:
    """Whatever the number of members, as many copies of the model are alive when one has just been read."""
    alive: list[int] = []

    def watched(i: int) -> Member:
        def load() -> Weights:
            weights = member(i, size=12345).load()
            gc.collect()
            alive.append(sum(type(o) is torch.Tensor and o.shape == (12345,) for o in gc.get_objects()))
            return weights

        return made(f"run{i}", 0.5, load)

    turns = 6 if merger is GreedySoup else 0
    rises_and_falls = iter([0.0] * turns + [1.0, 2.0, 0.0, 3.0, 0.0, 0.0])
    one(merger(merger.Hparams()), [watched(i) for i in range(6)], tools(lambda weights: next(rises_and_falls)))
    assert len(alive) == 6 + turns
    assert max(alive) == most
