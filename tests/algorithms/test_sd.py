from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from dgbench.algorithms.erm import ERM
from dgbench.algorithms.sd import SD
from dgbench.methods.batch import Batch


def reference(other: SimpleNamespace, batches: list[Batch], step: int) -> None:
    logits = other.network(torch.cat([b.x for b in batches]))
    squares = sum(value**2 for row in logits for value in row) / logits.numel()
    other.optimizer.zero_grad()
    (F.cross_entropy(logits, torch.cat([b.y for b in batches])) + 0.7 * squares).backward()
    other.optimizer.step()


def test_equals_a_plain_loop(toy: SimpleNamespace, norm: str, optimizer: str) -> None:
    toy.agrees(toy.make(SD, norm=norm, optimizer=optimizer, sd_reg=0.7), reference)


def test_gradient_of_the_penalty_alone(toy: SimpleNamespace) -> None:
    """By the classifier's bias the penalty's gradient is 2 / C times the mean logits, the rest ERM's."""
    gradients = []
    for algorithm in (toy.make(SD, sd_reg=0.5), toy.make(ERM)):
        algorithm.update(toy.batches(0))
        gradients.append(algorithm.network.classifier.bias.grad)
    logits = toy.make(ERM)(torch.cat([b.x for b in toy.batches(0)])).detach()
    torch.testing.assert_close(gradients[0] - gradients[1], 0.5 * 2 / 4 * logits.mean(0), rtol=0, atol=1e-14)


def test_without_weight_it_is_erm(toy: SimpleNamespace) -> None:
    sd, erm = toy.make(SD, sd_reg=0.0), toy.make(ERM)
    for step in range(3):
        toy.take(sd, step)
        toy.take(erm, step)
    for p, q in zip(sd.parameters(), erm.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-14)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_resumes_exactly(toy: SimpleNamespace, optimizer: str, dropout: float) -> None:
    toy.resumes(SD, norm="live", optimizer=optimizer, dropout=dropout)
