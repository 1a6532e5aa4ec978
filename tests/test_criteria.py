from __future__ import annotations

import math

import pytest
import torch

from dgbench.cards import TASKS
from dgbench.criteria import CRITERIA


def test_a_criterion_is_the_mean_over_examples() -> None:
    z = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    classes = (math.log1p(math.exp(-2)) + math.log1p(math.e)) / 2
    assert CRITERIA["classification"](z, torch.tensor([0, 0])).item() == pytest.approx(classes)
    assert CRITERIA["regression"](z[:, :1], torch.tensor([1.0, 3.0])).item() == pytest.approx((1 + 9) / 2)
    assert CRITERIA.keys() <= TASKS.keys()


def test_answers_that_nobody_gave_do_not_count() -> None:
    z = torch.tensor([[2.0, 3.0], [-1.0, 7.0]], requires_grad=True)
    loss = CRITERIA["multilabel"](z, torch.tensor([[1.0, math.nan], [0.0, math.nan]]))
    assert loss.item() == pytest.approx((math.log1p(math.exp(-2)) + math.log1p(math.exp(-1))) / 2)
    loss.backward()
    assert z.grad is not None
    assert torch.equal(z.grad[:, 1], torch.zeros(2))
    assert CRITERIA["multilabel"](z, torch.full((2, 2), math.nan)).item() == 0
