from __future__ import annotations

import torch

from dgbench.merging.layer_search import LayerSearch
from dgbench.methods.average import Weights
from tests.merging.toys import near, of, one, tools

START: Weights = {f"m{i}.w": torch.zeros(2, dtype=torch.float64) for i in range(4)}
MEMBERS = of(*({name: torch.full_like(tensor, scale) for name, tensor in START.items()} for scale in (0.5, 1.5)))


def test_each_part_takes_its_best_coefficient_from_the_deepest_on() -> None:
    """Modules m0, m1 make the first part, m2, m3 the second; displacements are 1, so weights are coefficients."""
    asked: list[tuple[float, float]] = []
    wanted = (0.5, 1.25)

    def score(weights: Weights) -> float:
        assert all(weights[f"m{i}.w"].unique().numel() == 1 for i in range(4))
        first, second = weights["m0.w"][0].item(), weights["m3.w"][0].item()
        assert (weights["m1.w"][0].item(), weights["m2.w"][0].item()) == (first, second)
        asked.append((first, second))
        return -abs(first - wanted[0]) - abs(second - wanted[1])

    merger = LayerSearch(LayerSearch.Hparams(parts=2))
    found = one(merger, MEMBERS, tools(score, START))
    assert found.by == {"part 1": 0.5, "part 2": 1.25}
    near(found.weights["m0.w"], torch.full((2,), 0.5, dtype=torch.float64))
    near(found.weights["m3.w"], torch.full((2,), 1.25, dtype=torch.float64))
    assert asked[0] == (1.0, 1.0)
    assert {first for first, _ in asked[: len(asked) // 2]} == {1.0}  # the deepest part is searched first
    assert {second for _, second in asked[-6:]} == {1.25}


def test_a_tie_keeps_the_mean() -> None:
    found = one(LayerSearch(LayerSearch.Hparams(parts=3)), MEMBERS, tools(lambda weights: 0.5, START))
    assert set(found.by.values()) == {1.0}
    near(found.weights["m2.w"], torch.ones(2, dtype=torch.float64))


def test_more_parts_than_modules_leave_some_without() -> None:
    found = one(LayerSearch(LayerSearch.Hparams(parts=9)), MEMBERS, tools(lambda w: w["m0.w"].sum().item(), START))
    assert found.by["part 1"] == 1.5
    assert [found.by[f"part {k}"] for k in range(2, 10)] == [1.0] * 8
