from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dgbench.algorithms.transfer import Transfer
from dgbench.core.errors import UserError
from dgbench.methods.batch import Batch

VALUES = {"t_lambda": 0.7, "lr_d": 0.5, "d_steps_per_g": 3}


def reference(algorithm: Transfer) -> Callable[[SimpleNamespace, list[Batch], int], None]:
    """The adversary is a network of its own, climbing by SGD with the sign of its loss turned."""
    h, adversary = algorithm.hparams, copy.deepcopy(algorithm.adversary)

    def gap(network: nn.Module, batches: list[Batch]) -> Tensor:
        losses = [F.cross_entropy(adversary(network.features(b.x)), b.y) for b in batches]
        return h.t_lambda * (max(losses) - min(losses))

    def step_(other: SimpleNamespace, batches: list[Batch], step: int) -> None:
        network = other.network
        other.optimizer.zero_grad()
        y = torch.cat([b.y for b in batches])
        F.cross_entropy(network(torch.cat([b.x for b in batches])), y).backward()
        other.optimizer.step()
        other.optimizer.zero_grad()
        gap(network, batches).backward()
        other.optimizer.step()
        adversary.load_state_dict(network.classifier.state_dict())
        saved = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        climb = torch.optim.SGD(adversary.parameters(), lr=h.lr_d)
        for _ in range(h.d_steps_per_g):
            network.load_state_dict(saved)
            climb.zero_grad()
            (-gap(network, batches)).backward()
            climb.step()
            pairs = list(zip(adversary.parameters(), network.classifier.parameters(), strict=True))
            distance = sum(((p - q) ** 2).sum() for p, q in pairs).sqrt()
            if distance > h.delta:
                for p, q in pairs:
                    p.data = (q + h.delta / distance * (p - q)).detach()
        for p, q in zip(algorithm.adversary.parameters(), adversary.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=0, atol=1e-12)

    return step_


@pytest.mark.parametrize("delta", [0.1, 50.0])
def test_equals_a_plain_loop(toy: SimpleNamespace, norm: str, optimizer: str, delta: float) -> None:
    """One radius that the ascent leaves, one that it does not."""
    algorithm = toy.make(Transfer, norm=norm, optimizer=optimizer, delta=delta, **VALUES)
    toy.agrees(algorithm, reference(algorithm))


def test_a_nonlinear_classifier_has_a_nonlinear_adversary(toy: SimpleNamespace) -> None:
    algorithm = toy.make(Transfer, nonlinear=True, delta=0.2, **VALUES)
    toy.agrees(algorithm, reference(algorithm))


def test_gda_is_plain_gradient_descent_of_featurizer_and_classifier(toy: SimpleNamespace, optimizer: str) -> None:
    algorithm = toy.make(Transfer, optimizer=optimizer, gda=True, **VALUES)
    plain = reference(algorithm)

    def step_(other: SimpleNamespace, batches: list[Batch], step: int) -> None:
        if step == 0:
            other.optimizer = torch.optim.SGD(other.network.parameters(), lr=1e-2, weight_decay=1e-2)
        plain(other, batches, step)

    before = [p.detach().clone() for p in algorithm.network.parameters()]
    toy.agrees(algorithm, step_)
    assert all(not torch.equal(p, q) for p, q in zip(before, algorithm.network.parameters(), strict=True))


def test_the_ascent_ends_on_the_sphere_and_raises_the_gap(toy: SimpleNamespace) -> None:
    algorithm = toy.make(Transfer, **{**VALUES, "lr_d": 5.0}, delta=0.3, lr=1e-9)
    toy.take(algorithm, 0)
    pairs = zip(algorithm.adversary.parameters(), algorithm.network.classifier.parameters(), strict=True)
    distance = torch.cat([(p - q).flatten() for p, q in pairs]).norm().item()
    assert distance == pytest.approx(0.3, abs=1e-12)
    batches = toy.batches(0)
    features = algorithm.domain_features(batches)
    gaps = [
        algorithm._gap(dict(head.named_parameters()), features, batches).item()
        for head in (algorithm.network.classifier, algorithm.adversary)
    ]
    assert gaps[1] > gaps[0] + 1e-3


def test_the_gap_leaves_the_classifier_alone_and_the_adversary_without_a_gradient(toy: SimpleNamespace) -> None:
    algorithm = toy.make(Transfer, **VALUES)
    toy.take(algorithm, 0)
    assert all(p.grad is None for p in algorithm.network.classifier.parameters())
    assert all(p.grad is None for p in algorithm.adversary.parameters())
    assert all(p.grad is not None for p in algorithm.network.featurizer.parameters())


def test_a_frozen_featurizer_is_left_alone(toy: SimpleNamespace) -> None:
    algorithm = toy.make(Transfer, **VALUES)
    algorithm.network.freeze("featurizer")
    before = [p.detach().clone() for p in algorithm.network.parameters()]
    toy.take(algorithm, 0)
    moved = [not torch.equal(p, q) for p, q in zip(before, algorithm.network.parameters(), strict=True)]
    assert moved == [False, False, True, True]


@pytest.mark.parametrize("wrong", [{"d_steps_per_g": 0}, {"delta": 0.0}])
def test_impossible_values_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        Transfer.Hparams(**wrong)


@pytest.mark.parametrize("gda", [False, True])
def test_resumes_exactly(toy: SimpleNamespace, optimizer: str, gda: bool) -> None:
    toy.resumes(Transfer, norm="live", optimizer=optimizer, dropout=0.3, gda=gda, **VALUES)
