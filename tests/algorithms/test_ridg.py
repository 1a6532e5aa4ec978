from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dgbench.algorithms.erm import ERM
from dgbench.algorithms.ridg import RIDG
from dgbench.core.errors import UserError
from dgbench.methods.batch import Batch

ALPHA, MOMENTUM = 0.3, 0.2
OPTIONS = {"ridg_alpha": ALPHA, "ridg_momentum": MOMENTUM}


def reference() -> Callable[[SimpleNamespace, list[Batch], int], None]:
    bank: dict[int, Tensor] = {}

    def step_(other: SimpleNamespace, batches: list[Batch], step: int) -> None:
        network = other.network
        y = torch.cat([b.y for b in batches])
        z = network.dropout(network.features(torch.cat([b.x for b in batches])))
        weight = network.classifier.weight
        penalty = torch.zeros(())
        for c in sorted(set(y.tolist())):
            rationales = torch.stack([weight * z[n] for n in range(len(y)) if y[n] == c])
            mean = rationales.mean(0).detach()
            bank[c] = (1 - MOMENTUM) * bank[c] + MOMENTUM * mean if c in bank else mean
            penalty = penalty + ((rationales - bank[c]) ** 2).sum(2).mean()
        other.optimizer.zero_grad()
        (F.cross_entropy(network.classifier(z), y) + ALPHA * penalty).backward()
        other.optimizer.step()

    return step_


def test_equals_a_plain_loop(toy: SimpleNamespace, norm: str, optimizer: str) -> None:
    toy.agrees(toy.make(RIDG, norm=norm, optimizer=optimizer, dropout=0.3, **OPTIONS), reference(), steps=4)


def test_the_first_mean_of_a_class_is_the_minibatchs(toy: SimpleNamespace) -> None:
    algorithm = toy.make(RIDG, **OPTIONS)
    batch = toy.batches(0)[2]
    first = Batch(batch.x[batch.y != 3], batch.y[batch.y != 3], batch.positions[batch.y != 3], 0)
    rationales = algorithm.network.classifier.weight * algorithm.network.features(first.x)[:, None, :]
    algorithm.update([first])
    present = set(first.y.tolist())
    assert algorithm.seen.tolist() == [c in present for c in range(4)]
    for c in present:
        torch.testing.assert_close(algorithm.means[c], rationales[first.y == c].mean(0), rtol=0, atol=1e-14)
    assert not algorithm.means[3].any()
    kept = algorithm.means[0].clone()
    algorithm.update([Batch(first.x[:1], torch.tensor([3]), first.positions[:1], 0)])
    assert algorithm.seen[3]
    assert torch.equal(algorithm.means[0], kept)


def test_a_lone_example_that_is_its_classs_mean_pays_nothing(toy: SimpleNamespace) -> None:
    algorithm = toy.make(RIDG, **OPTIONS)
    batch = toy.batches(0)[0]
    assert algorithm.update([Batch(batch.x[:1], batch.y[:1], batch.positions[:1], 0)])[
        "penalty"
    ].item() == pytest.approx(0, abs=1e-14)


def test_without_weight_it_is_erm(toy: SimpleNamespace) -> None:
    ridg, erm = toy.make(RIDG, ridg_alpha=0.0), toy.make(ERM)
    for step in range(3):
        toy.take(ridg, step)
        toy.take(erm, step)
    for p, q in zip(ridg.parameters(), erm.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-13)


def test_what_cannot_be_is_refused(toy: SimpleNamespace) -> None:
    with pytest.raises(UserError, match="RIDG needs a linear classifier"):
        toy.make(RIDG, nonlinear=True)
    with pytest.raises(UserError, match=r"ridg_momentum must lie in \[0, 1\], not 2"):
        RIDG.Hparams(ridg_momentum=2)


def test_resumes_exactly(toy: SimpleNamespace, optimizer: str) -> None:
    toy.resumes(RIDG, norm="live", optimizer=optimizer, dropout=0.3, **OPTIONS)
