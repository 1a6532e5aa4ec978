from __future__ import annotations

import math

import pytest
import torch

from dgbench.core.data_cards import TASKS
from dgbench.methods.criteria import CRITERIA


def test_a_criterion_is_the_mean_over_examples() -> None:
    z = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    classes = (math.log1p(math.exp(-2)) + math.log1p(math.e)) / 2
    assert CRITERIA["classification"].mean(z, torch.tensor([0, 0])).item() == pytest.approx(classes)
    assert CRITERIA["regression"].mean(z[:, :1], torch.tensor([1.0, 3.0])).item() == pytest.approx((1 + 9) / 2)
    assert CRITERIA.keys() == TASKS.keys()


def test_answers_that_nobody_gave_do_not_count() -> None:
    z = torch.tensor([[2.0, 3.0], [-1.0, 7.0]], requires_grad=True)
    loss = CRITERIA["multilabel"].mean(z, torch.tensor([[1.0, math.nan], [0.0, math.nan]]))
    assert loss.item() == pytest.approx((math.log1p(math.exp(-2)) + math.log1p(math.exp(-1))) / 2)
    loss.backward()
    assert z.grad is not None
    assert torch.equal(z.grad[:, 1], torch.zeros(2))
    assert CRITERIA["multilabel"].mean(z, torch.full((2, 2), math.nan)).item() == 0


def test_what_is_not_asked_of_a_sequence_does_not_count() -> None:
    z = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    y = torch.tensor([[1, -100, 3], [-100, -100, 0]])
    of = CRITERIA["tokens"]
    loss, total = of.mean(z, y), 0.0
    for i, j in ((0, 0), (0, 2), (1, 2)):
        row = z[i, j].tolist()
        total += math.log(math.fsum(map(math.exp, row))) - row[y[i, j]]
    assert loss.item() == pytest.approx(total / 3, rel=1e-12)
    loss.backward()
    assert z.grad is not None
    assert torch.equal(z.grad.abs().sum(2) > 0, y != -100)
    nothing = of.mean(z, torch.full_like(y, -100))
    (gradient,) = torch.autograd.grad(nothing, z)
    assert nothing.item() == 0
    assert torch.equal(gradient, torch.zeros_like(z))


LABELS = {
    "classification": torch.tensor([0, 3, 1]),
    "regression": torch.tensor([0.5, -1.0, 2.0]),
    "tokens": torch.tensor([[0, -100], [3, 2], [-100, -100]]),
    "multilabel": torch.tensor([[1.0, math.nan], [0.0, 1.0], [math.nan, math.nan]]),
}
SHAPES = {"classification": (3, 4), "regression": (3, 1), "tokens": (3, 2, 4), "multilabel": (3, 2)}


@pytest.mark.parametrize("kind", TASKS)
def test_the_mean_is_that_of_the_losses_of_all_answers(kind: str) -> None:
    of, y = CRITERIA[kind], LABELS[kind]
    z = torch.randn(SHAPES[kind], generator=torch.Generator().manual_seed(0))
    losses, answered = of.losses(z, y), of.answered(y)
    assert losses.shape == answered.shape == y.shape == of.predicted(z).shape
    assert not losses[~answered].any()
    torch.testing.assert_close(of.mean(z, y), losses.sum() / answered.sum())
