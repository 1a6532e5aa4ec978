from __future__ import annotations

import pytest
import torch

from dgbench.merging.lerp_grid import LERPGrid
from dgbench.methods.average import Weights
from tests.merging.toys import drawn_model, made, near, tools

MODELS = [drawn_model(seed) for seed in (1, 2, 3)]


def candidates(accuracies: list[float], points: int = 5) -> list[tuple[float, Weights]]:
    members = [
        made(f"run{i}", accuracy, lambda i=i: dict(MODELS[i]))  # type: ignore[misc]
        for i, accuracy in enumerate(accuracies)
    ]
    merger = LERPGrid(LERPGrid.Hparams(points=points))
    found = [(merged.by["alpha"], merged.weights) for merged in merger.candidates(members, tools())]
    assert len(found) == merger.choices
    return found


def test_of_two_it_is_the_line_between_them_exact_at_both_ends() -> None:
    found = candidates([0.5, 0.9])
    assert [alpha for alpha, _ in found] == [0, 0.25, 0.5, 0.75, 1, 0.5]
    assert torch.equal(found[0][1]["b.weight"], MODELS[1]["b.weight"])
    assert torch.equal(found[4][1]["b.weight"], MODELS[0]["b.weight"])
    for alpha, weights in found:
        near(weights["b.weight"], (1 - alpha) * MODELS[1]["b.weight"] + alpha * MODELS[0]["b.weight"])
        assert weights["count"].item() == 2


@pytest.mark.parametrize(("accuracies", "best"), [([0.1, 0.2, 0.3], 2), ([0.3, 0.1, 0.3], 0)])
def test_of_more_it_leads_to_the_mean_of_the_others_and_ends_at_that_of_all(accuracies: list[float], best: int) -> None:
    found = candidates(accuracies, points=2)
    others = [model["a.weight"] for i, model in enumerate(MODELS) if i != best]
    assert torch.equal(found[0][1]["a.weight"], MODELS[best]["a.weight"])
    near(found[1][1]["a.weight"], (others[0] + others[1]) / 2)
    assert found[2][0] == pytest.approx(2 / 3)
    near(found[2][1]["a.weight"], torch.stack([model["a.weight"] for model in MODELS]).mean(0))
