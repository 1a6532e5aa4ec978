from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from dgbench.algorithm import Batch
from dgbench.algorithms.erm import ERM


def reference(other: SimpleNamespace, batches: list[Batch], step: int) -> None:
    logits = other.network(torch.cat([b.x for b in batches]))
    labels = torch.cat([b.y for b in batches])
    loss = -logits.log_softmax(1)[torch.arange(len(labels)), labels].sum() / len(labels)
    other.optimizer.zero_grad()
    loss.backward()
    other.optimizer.step()


def test_equals_a_plain_loop(toy: SimpleNamespace, norm: str, optimizer: str) -> None:
    toy.agrees(toy.make(ERM, norm=norm, optimizer=optimizer), reference)


def test_every_example_weighs_alike(toy: SimpleNamespace) -> None:
    algorithm = toy.make(ERM)
    data = toy.batches(0)
    per_example = [F.cross_entropy(algorithm(b.x), b.y, reduction="sum") for b in data]
    expected = sum(per_example) / sum(len(b.y) for b in data)
    torch.testing.assert_close(algorithm.loss(data), expected, rtol=0, atol=1e-14)


def test_is_the_baseline() -> None:
    assert ERM.card.baseline


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_resumes_exactly(toy: SimpleNamespace, optimizer: str, dropout: float) -> None:
    toy.resumes(ERM, norm="live", optimizer=optimizer, dropout=dropout)
