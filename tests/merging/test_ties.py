from __future__ import annotations

from itertools import product

import pytest
import torch

from dgbench.merging.ties import TIES, trim
from tests.merging.toys import drawn_model, near, of, one, tools

START = drawn_model(0)
MODELS = [drawn_model(seed) for seed in range(1, 6)]
NAMES = ("a.weight", "a.bias", "norm.weight", "b.weight")


@pytest.mark.parametrize(("keep", "scale"), [(0.2, 1.0), (0.55, 0.7), (1.0, 1.0)])
def test_against_a_loop_over_single_weights(keep: float, scale: float) -> None:
    given = tools(initial=START, statistics=frozenset({"norm.running_mean"}))
    found = one(TIES(TIES.Hparams(keep=keep, scale=scale)), of(*MODELS), given).weights
    kept = []
    for model in MODELS:
        moves = {n: (model[n] - START[n]).flatten().tolist() for n in NAMES}
        magnitudes = sorted((abs(x) for values in moves.values() for x in values), reverse=True)
        least = magnitudes[round(keep * len(magnitudes)) - 1]
        kept.append({n: [x if abs(x) >= least else 0.0 for x in values] for n, values in moves.items()})
    for name in NAMES:
        for i, begun in enumerate(START[name].flatten().tolist()):
            moves_here = [vector[name][i] for vector in kept]
            total = sum(moves_here)
            agreeing = [x for x in moves_here if x * total > 0]
            expected = begun + (scale * sum(agreeing) / len(agreeing) if agreeing else 0.0)
            assert found[name].flatten()[i].item() == pytest.approx(expected, abs=1e-12)
    near(found["norm.running_mean"], torch.stack([m["norm.running_mean"] for m in MODELS]).mean(0))


@pytest.mark.parametrize(("keep", "left"), [(0.2, 2), (0.25, 3), (0.01, 1), (1.0, 10)])
def test_trimming_keeps_the_largest_over_all_tensors_together(keep: float, left: int) -> None:
    values = torch.tensor([0.3, -1.0, 0.1, 0.5, -0.2, 0.9, -0.4, 0.8, 0.6, -0.7], dtype=torch.float64)
    found = trim({"a": values[:4], "b": values[4:].view(2, 3)}, keep)
    flat = torch.cat([found["a"], found["b"].flatten()])
    largest = values.abs().topk(left).indices
    assert flat.nonzero().flatten().tolist() == sorted(largest.tolist())
    assert torch.equal(flat[largest], values[largest])


def test_weights_that_members_moved_apart_to_the_same_amount_stay() -> None:
    start = {"w": torch.tensor([1.0, 1.0], dtype=torch.float64)}
    members = of(*({"w": torch.tensor([1.0 + sign * 0.5, 2.0], dtype=torch.float64)} for sign in (1, -1)))
    found = one(TIES(TIES.Hparams(keep=1.0)), members, tools(initial=start)).weights["w"]
    assert found.tolist() == [1.0, 2.0]


def test_differences_too_small_to_be_multiplied_still_have_signs() -> None:
    tiny = 1e-30
    start = {"w": torch.zeros(2)}
    found = one(TIES(TIES.Hparams(keep=1.0)), of(*[{"w": torch.tensor([tiny, -tiny])}] * 2), tools(initial=start))
    assert [x != 0 for x in found.weights["w"].tolist()] == [True, True]


def test_impossible_values_are_refused() -> None:
    for keep, scale in product((0.0, 1.1), (0.0,)):
        with pytest.raises(Exception, match=r"keep.*\n?.*"):
            TIES.Hparams(keep=keep, scale=scale)
