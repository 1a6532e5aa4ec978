from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from dgbench.algorithms.erm import ERM
from dgbench.core.errors import UserError
from dgbench.methods.batch import Batch
from dgbench.rules.amp import AMP
from tests.algorithms.uphill import (
    ascended,
    displacements,
    erm,
    flat,
    gradient_at,
    gradient_of,
    norm_of,
    step,
    train_alike,
)

EPSILON, ZETA = 0.2, 0.9


def reference(ball: str, steps: int) -> Callable[[SimpleNamespace, list[Batch], int], None]:
    def step_(other: SimpleNamespace, batches: list[Batch], number: int) -> None:
        g = gradient_of(other.network, erm(batches))
        by = [torch.zeros_like(v) for v in g]
        for _ in range(steps):
            by = [d + ZETA * v for d, v in zip(by, g, strict=True)]
            for i, d in enumerate(list(by)) if ball == "tensor" else ():
                if d.norm() > EPSILON:
                    by[i] = d * EPSILON / (d.norm() + 1e-12)
            length = norm_of(by)
            if ball == "global" and length > EPSILON:
                by = [d * EPSILON / (length + 1e-12) for d in by]
            g = gradient_at(other.network, erm(batches), by)
        step(other, g)

    return step_


@pytest.mark.parametrize("ball", ["tensor", "global"])
@pytest.mark.parametrize("steps", [1, 3])
def test_equals_a_plain_loop(toy: SimpleNamespace, norm: str, optimizer: str, ball: str, steps: int) -> None:
    options = {"norm": norm, "optimizer": optimizer, "ball": ball, "inner_iter": steps}
    toy.agrees(toy.make(AMP, epsilon=EPSILON, inner_lr=ZETA, **options), reference(ball, steps), logs=ascended)


def test_balls_hold_and_bind(toy: SimpleNamespace) -> None:
    """Some tensors are on the surface of their balls and others inside, else the loop above would prove less."""
    (by,) = displacements(toy.make(AMP, epsilon=EPSILON, inner_lr=ZETA), toy.batches(0))
    lengths = [d.norm().item() for d in by]
    assert max(lengths) == pytest.approx(EPSILON, abs=1e-10)
    assert min(lengths) < 0.9 * EPSILON
    (by,) = displacements(toy.make(AMP, epsilon=EPSILON, inner_lr=ZETA, ball="global"), toy.batches(0))
    assert norm_of(by).item() == pytest.approx(EPSILON, abs=1e-10)


class Linear(AMP):
    """L = c' theta: gradients (3, 4) by one tensor and (0.1) by another, wherever theta is."""

    def build(self) -> None:
        self.network.requires_grad_(False)
        self.pair, self.single = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))

    def joint_loss(self, batches: list[Batch]) -> torch.Tensor:
        self.seen = torch.cat([self.pair, self.single]).detach().tolist()
        return (self.pair * torch.tensor([3.0, 4.0])).sum() + 0.1 * self.single.sum()


def test_a_long_tensor_is_shortened_and_a_short_one_left(toy: SimpleNamespace) -> None:
    algorithm = toy.make(Linear, epsilon=0.5, inner_lr=1.0)
    toy.take(algorithm, 0)
    assert algorithm.seen == pytest.approx([0.3, 0.4, 0.1], abs=1e-10)


def test_in_a_large_ball_it_follows_the_gradient_as_it_is(toy: SimpleNamespace) -> None:
    g = gradient_of(toy.make(AMP).network, erm(toy.batches(0)))
    (by,) = displacements(toy.make(AMP, epsilon=1e9, inner_lr=ZETA), toy.batches(0))
    torch.testing.assert_close(flat(by), ZETA * flat(g), rtol=0, atol=1e-12)


@pytest.mark.parametrize("off", ["epsilon", "inner_lr"])
@pytest.mark.parametrize("ball", ["tensor", "global"])
def test_without_perturbation_it_is_erm(toy: SimpleNamespace, off: str, ball: str) -> None:
    train_alike(toy, toy.make(AMP, ball=ball, **{off: 0.0}), toy.make(ERM), tolerance=0)


@pytest.mark.parametrize(
    ("values", "words"), [({"inner_iter": 0}, "at least 1"), ({"ball": "tensors"}, "is one of tensor")]
)
def test_impossible_values_are_refused(values: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        AMP.Hparams(**values)


def test_resumes_exactly(toy: SimpleNamespace, optimizer: str) -> None:
    toy.resumes(AMP, norm="live", optimizer=optimizer, dropout=0.3, inner_iter=2)
