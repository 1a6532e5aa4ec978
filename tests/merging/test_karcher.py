from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dgbench.merging.karcher import KarcherMean, mean_on_sphere
from tests.merging.toys import drawn_model, near, of, one, tools

START = drawn_model(0)
MODELS = [drawn_model(seed) for seed in (1, 2, 3)]


def vectors(count: int, size: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(count, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("angle", [1e-9, 0.3, 2.0, 3.1])
def test_two_of_one_length_give_the_middle_of_slerp(angle: float) -> None:
    frame = torch.linalg.qr(vectors(6))[0]
    first, second = 2 * frame[0], 2 * (math.cos(angle) * frame[0] + math.sin(angle) * frame[1])
    slerp = (math.sin(angle / 2) * first + math.sin(angle / 2) * second) / math.sin(angle)
    near(mean_on_sphere(torch.stack([first, second])), slerp, 1e-9)


@pytest.mark.parametrize("count", [3, 7])
def test_squared_distances_on_the_sphere_are_least_there(count: int) -> None:
    found = vectors(count) + torch.tensor([3.0, 0, 0, 0, 0, 0], dtype=torch.float64)
    units = found / found.norm(dim=1, keepdim=True)

    def cost(point: Tensor) -> float:
        return sum(math.acos(max(-1, min(1, (unit @ point / point.norm()).item()))) ** 2 for unit in units)

    mean = mean_on_sphere(found)
    assert mean.norm().item() == pytest.approx(found.norm(dim=1).mean().item(), abs=1e-12)
    for direction in vectors(20, seed=1):
        assert cost(mean + 1e-3 * direction) > cost(mean)
    step = sum(
        math.acos((unit @ mean / mean.norm()).item()) * across / across.norm()
        for unit in units
        if (across := unit - (unit @ mean) * mean / mean.norm() ** 2).norm() > 0
    )
    assert step.norm().item() < 1e-7  # type: ignore[union-attr]


def test_each_tensor_is_averaged_around_the_start_by_itself() -> None:
    given = tools(initial=START, statistics=frozenset({"norm.running_mean"}))
    found = one(KarcherMean(KarcherMean.Hparams()), of(*MODELS), given).weights
    for name in ("a.weight", "a.bias", "b.weight"):
        near(found[name], START[name] + mean_on_sphere(torch.stack([model[name] - START[name] for model in MODELS])))
    near(found["norm.running_mean"], torch.stack([m["norm.running_mean"] for m in MODELS]).mean(0))


def test_around_zero_it_is_the_mean_of_the_weights_themselves() -> None:
    found = one(KarcherMean(KarcherMean.Hparams(origin="zero")), of(*MODELS), tools(initial=START)).weights
    near(found["b.weight"], mean_on_sphere(torch.stack([model["b.weight"] for model in MODELS])))


def test_directions_that_cancel_or_are_none() -> None:
    one_up = torch.tensor([[1.0, 0.0], [-3.0, 0.0]], dtype=torch.float64)
    near(mean_on_sphere(one_up), torch.tensor([-1.0, 0.0], dtype=torch.float64))
    near(mean_on_sphere(torch.zeros(3, 4, dtype=torch.float64)), torch.zeros(4, dtype=torch.float64))
    half = torch.tensor([[2.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    near(mean_on_sphere(half), torch.tensor([1.0, 0.0], dtype=torch.float64))
