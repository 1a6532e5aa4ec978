from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dgbench.merging.dare import DARE, drop
from tests.merging.toys import drawn_model, near, of, one, tools

START = drawn_model(0)
MODELS = [drawn_model(seed) for seed in (1, 2, 3)]
NAMES = ("a.weight", "a.bias", "norm.weight", "b.weight")


def merged(seed: int, **hparams: float) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    given = tools(initial=START, statistics=frozenset({"norm.running_mean"}))
    return one(DARE(DARE.Hparams(**hparams)), of(*MODELS), given).weights  # type: ignore[arg-type]


@pytest.mark.parametrize("elect", [False, True])
def test_against_a_loop_over_single_weights_given_the_draws(elect: bool) -> None:
    torch.manual_seed(5)
    seeds = torch.randint(2**62, (3,)).tolist()
    kept = []
    for model, seed in zip(MODELS, seeds, strict=True):
        moves = {name: model[name] - START[name] for name in NAMES}
        kept.append(drop(moves, 0.4, seed))
        for name in NAMES:
            ratio = (kept[-1][name] / moves[name]).flatten().tolist()
            assert all(r == 0 or r == pytest.approx(1 / 0.6, abs=1e-12) for r in ratio)
    found = merged(5, drop=0.4, elect=elect, scale=0.8)
    for name in NAMES:
        for i, begun in enumerate(START[name].flatten().tolist()):
            moved = [vector[name].flatten()[i].item() for vector in kept]
            agreeing = [x for x in moved if x * sum(moved) > 0] if elect else moved
            expected = begun + 0.8 * sum(agreeing) / max(1, len(agreeing))
            assert found[name].flatten()[i].item() == pytest.approx(expected, abs=1e-12)
    near(found["norm.running_mean"], torch.stack([m["norm.running_mean"] for m in MODELS]).mean(0))
    assert found["count"].item() == 3


def test_the_share_and_the_expectation_are_those_of_the_paper() -> None:
    found = drop({"w": torch.ones(200_000, dtype=torch.float64)}, 0.9, 3)["w"]
    assert (found > 0).double().mean().item() == pytest.approx(0.1, abs=0.003)
    assert found.mean().item() == pytest.approx(1.0, abs=0.03)


def test_members_are_masked_apart_and_the_seed_decides() -> None:
    same = of(*[MODELS[0]] * 2)
    torch.manual_seed(1)
    found = one(DARE(DARE.Hparams(drop=0.5)), same, tools(initial=START)).weights["b.weight"]
    moved = (found - START["b.weight"]) / (MODELS[0]["b.weight"] - START["b.weight"])
    # Two masks that were one would leave weights at 0 or 2 times their displacement.
    assert torch.isclose(moved, torch.ones_like(moved)).any()
    assert torch.equal(merged(7)["a.weight"], merged(7)["a.weight"])
    assert not torch.equal(merged(7)["a.weight"], merged(8)["a.weight"])


def test_without_dropping_it_is_the_mean() -> None:
    for name, tensor in merged(0, drop=0.0).items():
        if name != "count":
            near(tensor, torch.stack([model[name] for model in MODELS]).mean(0))
