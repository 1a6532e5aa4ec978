from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dgbench.merging.model_stock import ModelStock
from dgbench.methods.average import Weights
from tests.merging.toys import near, of, one, tools


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def merged(initial: Tensor, *weights: Tensor) -> Tensor:
    found = one(ModelStock(ModelStock.Hparams()), of(*({"w": w} for w in weights)), tools(initial={"w": initial}))
    return found.weights["w"]


@pytest.mark.parametrize("count", [2, 3, 5])
def test_models_in_one_direction_give_their_mean(count: int) -> None:
    initial, direction = drawn(4, 3, seed=0), drawn(4, 3, seed=1)
    weights = [initial + (i + 1) * direction for i in range(count)]
    near(merged(initial, *weights), torch.stack(weights).mean(0))


@pytest.mark.parametrize("count", [2, 3, 5])
def test_models_at_right_angles_give_what_they_began_with(count: int) -> None:
    initial, directions = drawn(6, seed=0), torch.linalg.qr(drawn(6, 6, seed=1))[0]
    near(merged(initial, *(initial + (i + 1) * directions[i] for i in range(count))), initial)


def test_models_that_went_apart_give_what_they_began_with() -> None:
    initial, direction = drawn(6, seed=0), drawn(6, seed=1)
    aside = drawn(6, seed=2)
    near(merged(initial, initial + direction, initial - direction + 0.1 * aside), initial, 0)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_it_is_the_nearest_to_the_centre_on_the_line_from_the_beginning_to_the_mean(count: int) -> None:
    """Models at one distance from a centre, at right angles to each other and to the way there."""
    frame = torch.linalg.qr(drawn(9, 9, seed=1))[0]
    initial = drawn(9, seed=0)
    centre = initial + 0.7 * frame[-1]
    weights = [centre + 1.9 * frame[i] for i in range(count)]
    found = merged(initial, *weights)
    along = torch.stack(weights).mean(0) - initial
    foot = initial + along * ((centre - initial) @ along) / (along @ along)
    near(found, foot)
    assert 0.05 < ((found - initial) @ along) / (along @ along) < 0.95


@pytest.mark.parametrize("count", [2, 4])
def test_the_published_ratio(count: int) -> None:
    initial = drawn(50, seed=0)
    weights = [initial + drawn(50, seed=9) + drawn(50, seed=i + 1) for i in range(count)]
    moves = [w - initial for w in weights]
    pairs = [(a, b) for i, a in enumerate(moves) for b in moves[:i]]
    c = torch.stack([(a @ b) / (a.norm() * b.norm()) for a, b in pairs]).mean()
    t = count * c / (1 + (count - 1) * c)
    near(merged(initial, *weights), t * torch.stack(weights).mean(0) + (1 - t) * initial)


def test_each_tensor_has_a_ratio_of_its_own_and_whole_numbers_are_left_alone() -> None:
    initial: Weights = {"a": drawn(3, seed=0), "b": torch.zeros(2, dtype=torch.float64), "n": torch.tensor(0)}
    step, axes = drawn(3, seed=1), torch.eye(2, dtype=torch.float64)
    weights = [{"a": initial["a"] + step, "b": axes[i], "n": torch.tensor(7 + i)} for i in range(2)]
    found = one(ModelStock(ModelStock.Hparams()), of(*weights), tools(initial=initial)).weights
    near(found["a"], initial["a"] + step)
    near(found["b"], initial["b"])
    assert found["n"].item() == 8


def test_what_no_member_moved_stays_to_the_bit() -> None:
    initial = drawn(1000, seed=0).float()
    assert torch.equal(merged(initial, *[initial.clone()] * 3), initial)
