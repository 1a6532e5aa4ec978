from __future__ import annotations

import gc
from collections.abc import Callable

import pytest
import torch

from dgbench.average import Weights
from dgbench.merger import Member, Merger, Tools
from dgbench.merging.diwa import DiWA, DiWARestricted


def member(i: int, accuracy: float = 0.5, size: int = 5) -> Member:
    def load() -> Weights:
        weights = torch.zeros(size, dtype=torch.float64)
        weights[i] = 1.0
        return {"w": weights, "count": torch.tensor(i)}

    return Member(f"run{i}", accuracy, load)


def tools(score: Callable[[Weights], float]) -> Tools:
    def refuse(*_: object) -> Weights:
        raise AssertionError("nobody asks for that")

    return Tools(score, refuse, refuse)


def scores(table: dict[frozenset[int], float]) -> Callable[[Weights], float]:
    """The score of a mean, by which one-hot members are in it."""
    return lambda weights: table[frozenset(weights["w"].nonzero().flatten().tolist())]


def never(weights: Weights) -> float:
    raise AssertionError("the uniform mean asks for no score")


def test_uniform_mean() -> None:
    merged = DiWA(DiWA.Hparams()).merge([member(i) for i in range(5)], tools(never))
    torch.testing.assert_close(merged["w"], torch.full((5,), 0.2, dtype=torch.float64), rtol=0, atol=1e-15)


def test_greedy_keeps_what_does_not_lower_the_score() -> None:
    """Ranked 2, 0, 3, 1: 0 ties and stays, 3 lowers and goes, 1 raises above the best of the kept and stays."""
    members = [member(0, 0.8), member(1, 0.6), member(2, 0.9), member(3, 0.7)]
    table = {
        frozenset({2}): 0.70,
        frozenset({2, 0}): 0.70,
        frozenset({2, 0, 3}): 0.69,
        frozenset({2, 0, 1}): 0.71,
    }
    merged = DiWARestricted(DiWARestricted.Hparams()).merge(members, tools(scores(table)))
    expected = torch.tensor([1 / 3, 1 / 3, 1 / 3, 0, 0], dtype=torch.float64)
    torch.testing.assert_close(merged["w"], expected, rtol=0, atol=1e-15)


def test_greedy_compares_with_the_best_so_far_not_with_the_last_tried() -> None:
    members = [member(0, 0.9), member(1, 0.8), member(2, 0.7)]
    table = {frozenset({0}): 0.7, frozenset({0, 1}): 0.5, frozenset({0, 2}): 0.6}
    merged = DiWARestricted(DiWARestricted.Hparams()).merge(members, tools(scores(table)))
    assert merged["w"].tolist() == [1, 0, 0, 0, 0]


def test_greedy_keeps_the_order_of_equally_accurate_runs() -> None:
    seen: list[list[int]] = []

    def score(weights: Weights) -> float:
        seen.append(weights["w"].nonzero().flatten().tolist())
        return float(len(seen))

    DiWARestricted(DiWARestricted.Hparams()).merge([member(i) for i in (3, 1, 2)], tools(score))
    assert seen == [[3], [1, 3], [1, 2, 3]]


@pytest.mark.parametrize(("merger", "most"), [(DiWA, 2), (DiWARestricted, 3)])
def test_members_are_streamed(merger: type[Merger], most: int) -> None:
    """Whatever the number of members, as many copies of the model are alive when one has just been read."""
    alive: list[int] = []

    def watched(i: int) -> Member:
        def load() -> Weights:
            weights = member(i, size=12345).load()
            gc.collect()
            alive.append(sum(type(o) is torch.Tensor and o.shape == (12345,) for o in gc.get_objects()))
            return weights

        return Member(f"run{i}", 0.5, load)

    rises_and_falls = iter([1.0, 2.0, 0.0, 3.0, 0.0, 0.0])
    merger(merger.Hparams()).merge([watched(i) for i in range(6)], tools(lambda weights: next(rises_and_falls)))
    assert len(alive) == 6
    assert max(alive) == most
