from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dgbench.algorithms.erm import ERM
from dgbench.core.space import space_of
from dgbench.methods.batch import Batch
from dgbench.rules.sam import SAM
from tests.algorithms.uphill import ascended

RHO = 0.05


def reference(other: SimpleNamespace, batches: list[Batch], step: int) -> None:
    x, y = torch.cat([b.x for b in batches]), torch.cat([b.y for b in batches])
    other.network.zero_grad()
    F.cross_entropy(other.network(x), y).backward()
    norm = sum((p.grad**2).sum() for p in other.network.parameters()).sqrt()
    uphill = copy.deepcopy(other.network)
    with torch.no_grad():
        for p, q in zip(other.network.parameters(), uphill.parameters(), strict=True):
            q.add_(RHO * p.grad / (norm + 1e-12))
    uphill.zero_grad()
    F.cross_entropy(uphill(x), y).backward()
    for p, q in zip(other.network.parameters(), uphill.parameters(), strict=True):
        p.grad = q.grad
    other.optimizer.step()


def test_equals_a_plain_loop(toy: SimpleNamespace, norm: str, optimizer: str) -> None:
    toy.agrees(toy.make(SAM, norm=norm, optimizer=optimizer, rho=RHO), reference, logs=ascended)


class Quadratic(SAM):
    """L = theta' A theta / 2 over the flattened parameters, split over tensors of different shapes."""

    def build(self) -> None:
        size = sum(p.numel() for p in self.network.parameters())
        root = torch.randn(size, size, generator=torch.Generator().manual_seed(1)) / size**0.5
        self.matrix = root @ root.T + torch.eye(size)

    def joint_loss(self, batches: list[Batch]) -> torch.Tensor:
        theta = nn.utils.parameters_to_vector(self.network.parameters())
        return theta @ self.matrix @ theta / 2


def test_closed_form_on_a_quadratic(toy: SimpleNamespace) -> None:
    """eps = rho A theta / ||A theta||, the second gradient is A (theta + eps); SGD with momentum and decay."""
    algorithm = toy.make(Quadratic, optimizer="sgd", rho=0.3, weight_decay=1e-2, lr=1e-2)
    theta = nn.utils.parameters_to_vector(algorithm.network.parameters()).detach().clone()
    momentum = torch.zeros_like(theta)
    for step in range(3):
        toy.take(algorithm, step)
        g = algorithm.matrix @ theta
        second = algorithm.matrix @ (theta + 0.3 * g / g.norm()) + 1e-2 * theta
        momentum = second if step == 0 else 0.9 * momentum + second
        theta = theta - 1e-2 * momentum
        got = nn.utils.parameters_to_vector(algorithm.network.parameters()).detach()
        torch.testing.assert_close(got, theta, rtol=0, atol=1e-12)


def test_without_radius_it_is_erm(toy: SimpleNamespace) -> None:
    sam, erm = toy.make(SAM, rho=0.0), toy.make(ERM)
    for step in range(3):
        toy.take(sam, step)
        toy.take(erm, step)
    for p, q in zip(sam.parameters(), erm.parameters(), strict=True):
        assert torch.equal(p, q)


def test_weights_come_back_bit_for_bit(toy: SimpleNamespace) -> None:
    algorithm = toy.make(SAM, lr=0.0, weight_decay=0.0, rho=0.7)
    before = [p.detach().clone() for p in algorithm.parameters()]
    toy.take(algorithm, 0)
    assert all(torch.equal(p, q) for p, q in zip(algorithm.parameters(), before, strict=True))


def test_weights_come_back_when_the_second_pass_fails(toy: SimpleNamespace) -> None:
    algorithm = toy.make(SAM, norm="live")
    before = [p.detach().clone() for p in algorithm.parameters()]
    whole, calls = algorithm.joint_loss, []

    def fails_later(data: list[Batch]) -> torch.Tensor:
        calls.append(len(data))
        if len(calls) == 2:
            raise RuntimeError("out of memory")
        return whole(data)

    algorithm.joint_loss = fails_later
    with pytest.raises(RuntimeError, match="out of memory"):
        toy.take(algorithm, 0)
    assert all(torch.equal(p, q) for p, q in zip(algorithm.parameters(), before, strict=True))
    assert all(m.track_running_stats for m in algorithm.modules() if isinstance(m, nn.BatchNorm1d))


def test_live_batch_norm_remembers_the_first_pass_alone(toy: SimpleNamespace) -> None:
    sam, erm = toy.make(SAM, norm="live"), toy.make(ERM, norm="live")
    toy.take(sam, 0)
    toy.take(erm, 0)
    kept, plain = sam.network.featurizer[1], erm.network.featurizer[1]
    assert kept.num_batches_tracked.item() == 1
    assert torch.equal(kept.running_mean, plain.running_mean)
    assert torch.equal(kept.running_var, plain.running_var)


def test_the_second_pass_draws_a_new_dropout_mask(toy: SimpleNamespace) -> None:
    algorithm = toy.make(SAM, dropout=0.5)
    masks = []
    algorithm.network.dropout.register_forward_hook(lambda _, __, out: masks.append(out.detach() == 0))
    toy.take(algorithm, 0)
    assert len(masks) == 2
    assert not torch.equal(*masks)


def test_parameters_without_a_gradient_are_left_alone(toy: SimpleNamespace) -> None:
    algorithm = toy.make(SAM)
    algorithm.network.featurizer[0].weight.requires_grad_(False)
    algorithm.register_parameter("unused", nn.Parameter(torch.ones(3)))
    frozen = algorithm.network.featurizer[0].weight.clone()
    toy.take(algorithm, 0)
    assert torch.equal(algorithm.network.featurizer[0].weight, frozen)
    assert torch.equal(algorithm.unused, torch.ones(3))


def test_resumes_exactly(toy: SimpleNamespace, optimizer: str) -> None:
    toy.resumes(SAM, norm="live", optimizer=optimizer, dropout=0.3)


def test_what_it_takes_and_what_its_radius_is_drawn_from() -> None:
    """The paper's default and the re-runs' grid; two passes each way."""
    (rho,) = (spec for spec in space_of(SAM.Hparams) if spec.name == "rho")
    assert (rho.default, str(rho.draw)) == (0.05, "{0.01, 0.02, 0.05, 0.1}")
    assert (SAM.card.forwards, SAM.card.backwards) == (2, 2)
