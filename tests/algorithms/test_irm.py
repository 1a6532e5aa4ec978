from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dgbench.algorithms.erm import ERM
from dgbench.algorithms.irm import IRM, irm_penalty
from dgbench.methods.batch import Batch

ANNEAL = 2


def by_autograd(logits: Tensor, labels: Tensor) -> Tensor:
    """The product of derivatives by a scale in front of the logits, of even and odd examples."""
    scale = torch.ones((), requires_grad=True)
    halves = [F.cross_entropy(scale * logits[i::2], labels[i::2]) for i in (0, 1)]
    slopes = [torch.autograd.grad(half, scale, create_graph=True)[0] for half in halves]
    return slopes[0] * slopes[1]


def reference(toy: SimpleNamespace, algorithm: IRM) -> Callable[[SimpleNamespace, list[Batch], int], dict[str, Tensor]]:
    def step_(other: SimpleNamespace, batches: list[Batch], step: int) -> dict[str, Tensor]:
        if step == ANNEAL:
            other.optimizer = toy.hand_made(algorithm, other.network)
        logits = other.network(torch.cat([b.x for b in batches]))
        nll, penalty, start = 0, 0, 0
        for b in batches:
            mine = logits[start : start + len(b.y)]
            nll = nll + F.cross_entropy(mine, b.y) / len(batches)
            penalty = penalty + by_autograd(mine, b.y) / len(batches)
            start += len(b.y)
        other.optimizer.zero_grad()
        (nll + (7.0 if step >= ANNEAL else 1.0) * penalty).backward()
        other.optimizer.step()
        return {"nll": nll.detach(), "penalty": penalty.detach()}

    return step_


def test_equals_a_plain_loop_across_the_annealing_step(toy: SimpleNamespace, norm: str, optimizer: str) -> None:
    algorithm = toy.make(IRM, norm=norm, optimizer=optimizer, irm_lambda=7.0, irm_penalty_anneal_iters=ANNEAL)
    toy.agrees(algorithm, reference(toy, algorithm), steps=5)


def test_penalty_vanishes_at_the_best_scale() -> None:
    """Both halves hold the same examples, scaled to where the cross-entropy is least along the scale."""
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).repeat_interleave(2, dim=0)
    labels = logits.argmax(dim=1)
    labels[:4] = 1 - labels[:4].clamp_max(1)
    assert irm_penalty(logits, labels).item() > 0
    low, high = 0.0, 50.0
    for _ in range(80):
        scale = torch.tensor((low + high) / 2, requires_grad=True)
        slope = torch.autograd.grad(F.cross_entropy(scale * logits, labels), scale)[0]
        low, high = (scale.item(), high) if slope < 0 else (low, scale.item())
    assert irm_penalty(low * logits, labels).item() == pytest.approx(0, abs=1e-20)


def test_a_single_example_has_no_penalty() -> None:
    assert irm_penalty(torch.ones(1, 4), torch.zeros(1, dtype=torch.int64)).item() == 0


def test_without_weight_it_is_erm(toy: SimpleNamespace) -> None:
    irm, erm = toy.make(IRM, irm_lambda=0.0, irm_penalty_anneal_iters=0), toy.make(ERM)
    for step in range(3):
        data = toy.batches(step, sizes=(4, 4, 4))
        irm.step = step
        irm.update(data)
        erm.update(data)
    for p, q in zip(irm.parameters(), erm.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-12)


@pytest.mark.parametrize("anneal", [1, 3, 5])
def test_resumes_exactly_before_at_and_after_the_annealing_step(
    toy: SimpleNamespace, optimizer: str, anneal: int
) -> None:
    toy.resumes(IRM, optimizer=optimizer, irm_penalty_anneal_iters=anneal, dropout=0.3)
