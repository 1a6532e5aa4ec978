from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from dgbench.algorithms.erm import ERM
from dgbench.algorithms.groupdro import GroupDRO
from dgbench.methods.batch import Batch

ETA = 0.5


def reference(other: SimpleNamespace, batches: list[Batch], step: int) -> dict[str, torch.Tensor]:
    if step == 0:
        other.q = [1.0] * len(batches)
    losses = [F.cross_entropy(other.network(b.x), b.y) for b in batches]
    raised = [q * torch.exp(ETA * loss.detach()) for q, loss in zip(other.q, losses, strict=True)]
    other.q = [q / sum(raised) for q in raised]
    other.optimizer.zero_grad()
    robust = sum(q * loss for q, loss in zip(other.q, losses, strict=True))
    robust.backward()
    other.optimizer.step()
    other.remembered["log_q"] = torch.stack(other.q).log()
    return {"loss": robust.detach(), "nll": torch.stack(losses).detach().mean()}


def test_equals_a_plain_loop(toy: SimpleNamespace, norm: str, optimizer: str) -> None:
    toy.agrees(toy.make(GroupDRO, norm=norm, optimizer=optimizer, groupdro_eta=ETA), reference)


def test_weights_follow_the_losses(toy: SimpleNamespace) -> None:
    """With a network that stands still, q is softmax(eta * steps * losses)."""
    algorithm = toy.make(GroupDRO, lr=0.0, weight_decay=0.0, groupdro_eta=ETA)
    data = toy.batches(0)
    losses = algorithm.domain_losses(data).detach()
    for _ in range(3):
        algorithm.update(data)
    torch.testing.assert_close(algorithm.log_q.exp(), (3 * ETA * losses).softmax(dim=0), rtol=0, atol=1e-14)


def test_a_domain_that_was_easy_for_long_can_come_back(toy: SimpleNamespace) -> None:
    algorithm = toy.make(GroupDRO, groupdro_eta=1.0)
    algorithm.log_q = torch.tensor([0.0, -2000.0, -2000.0])
    toy.take(algorithm, 0)
    assert algorithm.log_q.isfinite().all()
    assert algorithm.log_q[1] > -2010


def test_without_eta_it_is_erm(toy: SimpleNamespace) -> None:
    dro, erm = toy.make(GroupDRO, groupdro_eta=0.0), toy.make(ERM)
    for step in range(3):
        data = toy.batches(step, sizes=(4, 4, 4))
        dro.update(data)
        erm.update(data)
    for p, q in zip(dro.parameters(), erm.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-12)


def test_logs_the_robust_and_the_mean_loss(toy: SimpleNamespace) -> None:
    algorithm = toy.make(GroupDRO)
    mean = algorithm.domain_losses(toy.batches(0)).mean().item()
    logged = toy.take(algorithm, 0)
    assert logged["nll"] == pytest.approx(mean, abs=1e-14)
    assert logged["loss"] > logged["nll"]


def test_resumes_exactly(toy: SimpleNamespace, optimizer: str) -> None:
    toy.resumes(GroupDRO, norm="live", optimizer=optimizer, groupdro_eta=ETA, dropout=0.3)
