from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from dgbench.algorithms.erm import ERM
from dgbench.algorithms.ib import IB_ERM, IB_IRM, bottleneck
from dgbench.algorithms.irm import irm_penalty
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.batch import Batch

IRM_AT, IB_AT = 1, 3


def reference(toy: SimpleNamespace, algorithm: Algorithm) -> Callable[[SimpleNamespace, list[Batch], int], None]:
    irm = isinstance(algorithm, IB_IRM)

    def step_(other: SimpleNamespace, batches: list[Batch], step: int) -> None:
        if step == IB_AT or (irm and step == IRM_AT):
            other.optimizer = toy.hand_made(algorithm, other.network)
        features = other.network.features(torch.cat([b.x for b in batches]))
        loss, start = 0, 0
        for b in batches:
            mine = features[start : start + len(b.y)]
            logits = other.network.classifier(mine)
            loss = loss + F.cross_entropy(logits, b.y)
            if irm:
                loss = loss + (5.0 if step >= IRM_AT else 1.0) * irm_penalty(logits, b.y)
            if step >= IB_AT:
                loss = loss + 3.0 * mine.var(dim=0).mean()
            start += len(b.y)
        other.optimizer.zero_grad()
        (loss / len(batches)).backward()
        other.optimizer.step()

    return step_


def test_ib_erm_equals_a_plain_loop_across_the_annealing_step(toy: SimpleNamespace, norm: str, optimizer: str) -> None:
    algorithm = toy.make(IB_ERM, norm=norm, optimizer=optimizer, ib_lambda=3.0, ib_penalty_anneal_iters=IB_AT)
    toy.agrees(algorithm, reference(toy, algorithm), steps=5)


def test_ib_irm_equals_a_plain_loop_across_both_annealing_steps(
    toy: SimpleNamespace, norm: str, optimizer: str
) -> None:
    weights = {
        "irm_lambda": 5.0,
        "irm_penalty_anneal_iters": IRM_AT,
        "ib_lambda": 3.0,
        "ib_penalty_anneal_iters": IB_AT,
    }
    algorithm = toy.make(IB_IRM, norm=norm, optimizer=optimizer, **weights)
    toy.agrees(algorithm, reference(toy, algorithm), steps=5)


def test_bottleneck_of_known_features() -> None:
    """Variances 2 and 8 in the first domain, 0 and 0 in the second, which has one example."""
    domains = [torch.tensor([[0.0, 1.0], [2.0, 5.0]]), torch.tensor([[9.0, 9.0]])]
    assert bottleneck(domains).item() == pytest.approx(((2 + 8) / 2 + 0) / 2, abs=1e-15)


@pytest.mark.parametrize("cls", [IB_ERM, IB_IRM])
def test_without_weights_they_are_erm(toy: SimpleNamespace, cls: type[Algorithm]) -> None:
    zero = dict.fromkeys([*cls.card.penalties, *cls.card.rehearsal], 0)
    ib, erm = toy.make(cls, **zero), toy.make(ERM)
    for step in range(3):
        data = toy.batches(step, sizes=(4, 4, 4))
        ib.step = step
        ib.update(data)
        erm.update(data)
    for p, q in zip(ib.parameters(), erm.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-12)


@pytest.mark.parametrize("anneal", [1, 3, 5])
@pytest.mark.parametrize("cls", [IB_ERM, IB_IRM])
def test_resumes_exactly_around_the_annealing_step(
    toy: SimpleNamespace, optimizer: str, cls: type[Algorithm], anneal: int
) -> None:
    toy.resumes(cls, optimizer=optimizer, ib_penalty_anneal_iters=anneal, dropout=0.3)
