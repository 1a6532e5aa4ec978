from __future__ import annotations

import copy
import math
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from dgbench.algorithms.erm import ERM
from dgbench.algorithms.sdat import SDAT
from dgbench.core.errors import UserError
from dgbench.methods.batch import Batch
from dgbench.rules.sam import SAM

OPTIONS = {"rho": 0.1, "trade_off": 0.7, "reversal_steps": 2, "mlp_width": 5}


def reference(toy: SimpleNamespace, algorithm: SDAT) -> Callable[[SimpleNamespace, list[Batch], int], None]:
    judge = copy.deepcopy(algorithm.discriminator)
    judge_optimizer = toy.hand_made(algorithm, judge)

    def step_(other: SimpleNamespace, batches: list[Batch], step: int) -> None:
        network = other.network
        x, y = torch.cat([b.x for b in batches]), torch.cat([b.y for b in batches])
        domains = torch.tensor([i for i, b in enumerate(batches) for _ in b.y])
        other.optimizer.zero_grad()
        F.cross_entropy(network(x), y).backward()
        norm = sum((p.grad**2).sum() for p in network.parameters()).sqrt()
        uphill = copy.deepcopy(network)
        with torch.no_grad():
            for p, q in zip(network.parameters(), uphill.parameters(), strict=True):
                q.add_(0.1 * p.grad / (norm + 1e-12))
        z = uphill.dropout(uphill.features(x))
        task = F.cross_entropy(uphill.classifier(z), y)
        adversary = F.cross_entropy(judge(z), domains)
        weight = 2 / (1 + math.exp(-step / 2)) - 1
        own = torch.autograd.grad(0.7 * adversary, list(judge.parameters()), retain_graph=True)
        descent = torch.autograd.grad(task - weight * 0.7 * adversary, list(uphill.parameters()))
        for p, g in zip((*network.parameters(), *judge.parameters()), (*descent, *own), strict=True):
            p.grad = g
        other.optimizer.step()
        judge_optimizer.step()
        for p, q in zip(judge.parameters(), algorithm.discriminator.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=0, atol=1e-12)

    return step_


def test_equals_a_plain_loop(toy: SimpleNamespace, norm: str, optimizer: str) -> None:
    algorithm = toy.make(SDAT, norm=norm, optimizer=optimizer, dropout=0.3, **OPTIONS)
    toy.agrees(algorithm, reference(toy, algorithm), steps=4)


@pytest.mark.parametrize(("rho", "base"), [(0.0, ERM), (0.1, SAM)])
def test_without_adversary_it_is_sam_or_erm(toy: SimpleNamespace, rho: float, base: type[SAM]) -> None:
    ours = toy.make(SDAT, **(OPTIONS | {"trade_off": 0.0, "rho": rho}))
    other = toy.make(base, **({"rho": rho} if base is SAM else {}))
    for step in range(3):
        toy.take(ours, step)
        toy.take(other, step)
    for p, q in zip(ours.network.parameters(), other.network.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-13)


def test_the_first_step_is_not_the_adversarys(toy: SimpleNamespace) -> None:
    ours, sam = toy.make(SDAT, **OPTIONS), toy.make(SAM, rho=0.1)
    toy.take(ours, 0)
    toy.take(sam, 0)
    for p, q in zip(ours.network.parameters(), sam.network.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-13)


def test_the_discriminator_is_not_perturbed(toy: SimpleNamespace) -> None:
    """Nor does a step without learning move anything."""
    algorithm = toy.make(SDAT, lr=0.0, weight_decay=0.0, **OPTIONS)
    before = [p.detach().clone() for p in algorithm.parameters()]
    seen = []
    algorithm.discriminator[0].register_forward_hook(lambda module, *_: seen.append(module.weight.detach().clone()))
    toy.take(algorithm, 3)
    assert len(seen) == 1
    assert torch.equal(seen[0], algorithm.discriminator[0].weight)
    assert all(torch.equal(p, q) for p, q in zip(algorithm.parameters(), before, strict=True))


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UserError, match="reversal_steps must be at least 1"):
        SDAT.Hparams(reversal_steps=0)


def test_resumes_exactly(toy: SimpleNamespace, optimizer: str) -> None:
    toy.resumes(SDAT, norm="live", optimizer=optimizer, dropout=0.3, **(OPTIONS | {"mlp_dropout": 0.2}))
