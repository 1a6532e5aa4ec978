from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dgbench.algorithms.erm import ERM
from dgbench.core.errors import UserError
from dgbench.methods.batch import Batch
from dgbench.rules.imbsam import ImbSAM
from dgbench.rules.sam import SAM
from tests.algorithms.uphill import (
    Loss,
    displacements,
    erm,
    gradient_at,
    gradient_of,
    norm_of,
    plus,
    step,
    times,
    train_alike,
)

RHO, WEIGHT, TAIL = 0.2, 3.0, (1, 3)
COUNTS = ((9, 2, 8, 1), (7, 6, 5, 0), (8, 0, 8, 4))


def unbalanced(toy: SimpleNamespace, counts: tuple[tuple[int, ...], ...] = COUNTS, **options: object) -> ImbSAM:
    """With the class counts of these domains; their sums are 24, 8, 21 and 5, their mean is 14.5."""
    algorithm = toy.make(ImbSAM, rho=RHO, tail_weight=WEIGHT, **options)
    algorithm.task = dataclasses.replace(algorithm.task, class_counts=counts)
    algorithm.build()
    return algorithm


def part(batches: list[Batch], tail: bool) -> Loss:
    x, y = torch.cat([b.x for b in batches]), torch.cat([b.y for b in batches])

    def loss(network: nn.Module) -> torch.Tensor:
        logits = network(x)
        total = 0 * logits.sum()
        for z, label in zip(logits, y, strict=True):
            if (label.item() in TAIL) == tail:
                total = total + (WEIGHT if tail else 1.0) * F.cross_entropy(z[None], label[None]) / len(y)
        return total

    return loss


def reference() -> Callable[[SimpleNamespace, list[Batch], int], None]:
    def step_(other: SimpleNamespace, batches: list[Batch], number: int) -> None:
        # Of the network's own passes only the last may be noted by batch norm.
        nothing = [torch.zeros_like(p) for p in other.network.parameters()]
        head = gradient_at(other.network, part(batches, False), nothing)
        tail = gradient_of(other.network, part(batches, True))
        by = times(RHO / (norm_of(tail) + 1e-16), tail)
        step(other, plus(head, gradient_at(other.network, part(batches, True), by)))

    return step_


def logs(losses: list[float]) -> dict[str, float]:
    head, tail, uphill = losses
    return {"loss": head + tail, "sharpness": uphill - tail}


def test_equals_a_plain_loop(toy: SimpleNamespace, norm: str, optimizer: str) -> None:
    toy.agrees(unbalanced(toy, norm=norm, optimizer=optimizer), reference(), logs=logs)


@pytest.mark.parametrize(
    ("below", "rare"),
    [(0, {1, 3}), (5, set()), (6, {3}), (8, {3}), (9, {1, 3}), (22, {1, 2, 3}), (1000, {0, 1, 2, 3})],
)
def test_the_tail_is_counted_over_all_domains(toy: SimpleNamespace, below: int, rare: set[int]) -> None:
    algorithm = unbalanced(toy, tail_below=below)
    assert {i for i, yes in enumerate(algorithm.is_rare.tolist()) if yes} == rare
    assert algorithm.has_tail == bool(rare)
    assert "is_rare" not in algorithm.state_dict()


def test_without_rare_classes_it_is_erm_in_one_pass(toy: SimpleNamespace) -> None:
    """Of balanced classes none is below the mean."""
    train_alike(toy, toy.make(ImbSAM, dropout=0.5), toy.make(ERM, dropout=0.5), tolerance=0)
    assert displacements(toy.make(ImbSAM), toy.batches(0)) == []


def test_with_rare_classes_alone_it_is_sam(toy: SimpleNamespace, optimizer: str) -> None:
    options = {"norm": "live", "optimizer": optimizer, "rho": RHO}
    train_alike(toy, toy.make(ImbSAM, tail_below=1000, tail_weight=1.0, **options), toy.make(SAM, **options))


def test_without_radius_and_with_equal_weights_it_is_erm(toy: SimpleNamespace, optimizer: str) -> None:
    algorithm = toy.make(ImbSAM, optimizer=optimizer, rho=0.0, tail_weight=1.0)
    algorithm.is_rare = torch.tensor([False, True, False, True])
    algorithm.has_tail = True
    train_alike(toy, algorithm, toy.make(ERM, optimizer=optimizer))


def test_minibatches_without_rare_classes_are_learned_from_as_by_erm(toy: SimpleNamespace) -> None:
    algorithm, plain = unbalanced(toy), toy.make(ERM)
    data = [b._replace(y=torch.zeros_like(b.y)) for b in toy.batches(0)]
    for one in (algorithm, plain):
        one.update(data)
    for p, q in zip(algorithm.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-12)


def test_head_and_tail_share_the_first_forward_pass(toy: SimpleNamespace) -> None:
    algorithm = unbalanced(toy)
    seen = []
    algorithm.network.featurizer.register_forward_hook(lambda _, __, out: seen.append(len(out)))
    toy.take(algorithm, 0)
    assert seen == [16, 16]


def test_logs_the_loss_at_the_weights(toy: SimpleNamespace) -> None:
    algorithm, data = unbalanced(toy), toy.batches(0)
    expected = sum(part(data, tail)(algorithm.network) for tail in (False, True))
    assert algorithm.update(data)["loss"].item() == pytest.approx(expected.item(), abs=1e-14)
    assert erm(data)(algorithm.network) < expected


def test_negative_values_are_refused() -> None:
    with pytest.raises(UserError, match="tail_below must be at least 0, not -1"):
        ImbSAM.Hparams(tail_below=-1)


@pytest.mark.parametrize("below", [0, 1000])
def test_resumes_exactly(toy: SimpleNamespace, optimizer: str, below: int) -> None:
    toy.resumes(ImbSAM, norm="live", optimizer=optimizer, dropout=0.3, tail_below=below)
