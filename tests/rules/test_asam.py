from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch

from dgbench.algorithms.erm import ERM
from dgbench.core.errors import UserError
from dgbench.methods.batch import Batch
from dgbench.rules.asam import ASAM
from tests.algorithms.uphill import ascended, displacements, erm, flat, gradient_at, gradient_of, step, train_alike

RHO, ETA = 0.5, 0.03


def reference(other: SimpleNamespace, batches: list[Batch], number: int) -> None:
    g = gradient_of(other.network, erm(batches))
    scales = []
    for name, p in other.network.named_parameters():
        scales.append(p.detach().abs() + ETA if name.endswith("weight") else torch.ones_like(p))
    length = sum(((t * v) ** 2).sum() for t, v in zip(scales, g, strict=True)).sqrt()
    by = [RHO * t**2 * v / (length + 1e-16) for t, v in zip(scales, g, strict=True)]
    step(other, gradient_at(other.network, erm(batches), by))


def test_equals_a_plain_loop(toy: SimpleNamespace, norm: str, optimizer: str) -> None:
    toy.agrees(toy.make(ASAM, norm=norm, optimizer=optimizer, rho=RHO, eta=ETA), reference, logs=ascended)


def test_weights_at_zero_move_by_eta_alone_and_biases_fully(toy: SimpleNamespace) -> None:
    """T is eta where a weight is 0, batch norm's scale included, and 1 for a bias: eps is then T^2 g to a factor."""
    algorithm = toy.make(ASAM, norm="frozen", rho=RHO, eta=ETA)
    with torch.no_grad():
        algorithm.network.featurizer[1].weight.zero_()
        algorithm.network.classifier.bias.zero_()
    g = dict(zip(names(algorithm), gradient_of(copy.deepcopy(algorithm.network), erm(toy.batches(0))), strict=True))
    (by,) = displacements(algorithm, toy.batches(0))
    eps = dict(zip(names(algorithm), by, strict=True))
    bias, scale = "classifier.bias", "featurizer.1.weight"
    factor = (eps[bias] / g[bias])[0]
    torch.testing.assert_close(eps[bias], factor * g[bias])
    torch.testing.assert_close(eps[scale], factor * ETA**2 * g[scale])


def names(algorithm: ASAM) -> list[str]:
    return [name for name, _ in algorithm.network.named_parameters()]


def test_rescaling_two_layers_leaves_the_displaced_function_alone(toy: SimpleNamespace) -> None:
    """Without eta, eps / |w| does not change where w of one layer grows and that of the next shrinks."""
    found = []
    for factor in (1.0, 4.0):
        algorithm = toy.make(ASAM, rho=RHO, eta=0.0)
        algorithm.network.featurizer[1] = torch.nn.ReLU()
        first, last = algorithm.network.featurizer[0], algorithm.network.classifier
        with torch.no_grad():
            first.bias.zero_()
            first.bias.requires_grad_(False)
            last.bias.requires_grad_(False)
            first.weight.mul_(factor)
            last.weight.div_(factor)
        weights = {id(p): p.detach().clone() for p in algorithm.network.parameters()}
        (by,) = displacements(algorithm, toy.batches(0))
        pairs = zip(algorithm.network.parameters(), by, strict=True)
        found.append(flat([d / weights[id(p)] for p, d in pairs if p.requires_grad]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-12)


def test_without_radius_it_is_erm(toy: SimpleNamespace) -> None:
    train_alike(toy, toy.make(ASAM, rho=0.0), toy.make(ERM), tolerance=0)


def test_negative_values_are_refused_together() -> None:
    with pytest.raises(UserError) as refused:
        ASAM.Hparams(rho=-1.0, eta=-0.1)
    assert refused.value.problems == ("rho must be at least 0, not -1.0", "eta must be at least 0, not -0.1")


def test_resumes_exactly(toy: SimpleNamespace, optimizer: str) -> None:
    toy.resumes(ASAM, norm="live", optimizer=optimizer, dropout=0.3)
