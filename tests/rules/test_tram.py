from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dgbench.algorithms.erm import ERM
from dgbench.core.errors import UserError
from dgbench.methods.batch import Batch
from dgbench.rules.tram import DISTANCES, TRAM
from tests.algorithms.uphill import ascended


def logits(network: nn.Module, x: Tensor) -> Tensor:
    """Without dropout, in the mode that the network is in, remembering nothing."""
    again = copy.deepcopy(network)
    again.dropout.p = 0.0
    return again(x)


def reference(distance: str, reduction: str = "batchmean") -> Callable[[SimpleNamespace, list[Batch], int], None]:
    kept: list[nn.Module] = []

    def step_(other: SimpleNamespace, batches: list[Batch], step: int) -> None:
        network = other.network
        x, y = torch.cat([b.x for b in batches]), torch.cat([b.y for b in batches])
        if not kept:
            kept.append(copy.deepcopy(network))
        present = logits(network, x)
        other.optimizer.zero_grad()
        F.cross_entropy(network(x), y).backward()
        g = [p.grad.clone() for p in network.parameters()]
        if distance == "fisher":
            noisy = copy.deepcopy(network)
            noisy.zero_grad()
            F.cross_entropy(noisy(x + 0.3 * torch.randn_like(x)), y).backward()
            inverse = [1 / (1 + 0.2 * p.grad**2) for p in noisy.parameters()]
            norm = sum((v * v * f).sum() for v, f in zip(g, inverse, strict=True)).sqrt()
            eps = [0.5 * v * f / norm for v, f in zip(g, inverse, strict=True)]
        else:
            past = logits(network, x + 0.3 * torch.randn_like(x)) if distance == "noise" else logits(kept[0], x)
            p, q = past.softmax(1), present.softmax(1)
            d = (p * (p / q).log()).sum(1).mean().item()
            d = d / p.numel() if reduction == "repo" else d
            norm = sum(((w * v) ** 2).sum() for w, v in zip(network.parameters(), g, strict=True)).sqrt()
            eps = [d * w**2 * v / (norm + 1e-12) for w, v in zip(network.parameters(), g, strict=True)]
        if distance == "previous":
            kept[0] = copy.deepcopy(network)
        uphill = copy.deepcopy(network)
        uphill.zero_grad()
        with torch.no_grad():
            for p, e in zip(uphill.parameters(), eps, strict=True):
                p.add_(e)
        F.cross_entropy(uphill(x), y).backward()
        for p, q in zip(network.parameters(), uphill.parameters(), strict=True):
            p.grad = q.grad
        other.optimizer.step()

    return step_


OPTIONS: dict[str, Any] = {"sigma": 0.3, "fisher_gamma": 0.5, "fisher_eta": 0.2}


@pytest.mark.parametrize("distance", DISTANCES)
def test_equals_a_plain_loop(toy: SimpleNamespace, norm: str, optimizer: str, distance: str) -> None:
    algorithm = toy.make(TRAM, norm=norm, optimizer=optimizer, dropout=0.3, distance=distance, **OPTIONS)
    toy.agrees(algorithm, reference(distance), steps=4, logs=ascended)


class Words(nn.Module):
    """A featurizer of tokens, whose vectors are averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.embedder = nn.Embedding(9, 8)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.embedder(x).mean(dim=1))


@pytest.mark.parametrize("distance", ["noise", "fisher"])
def test_the_noise_is_on_the_embeddings_of_tokens(toy: SimpleNamespace, distance: str) -> None:
    """A plain loop on the looked-up vectors, which are inputs like any others, draws the same noise."""
    algorithm = toy.make(TRAM, distance=distance, **OPTIONS)
    algorithm.network.featurizer = Words()
    x = torch.randint(9, (16, 5), generator=torch.Generator().manual_seed(1))
    network, h = algorithm.network, algorithm.hparams
    torch.manual_seed(3)
    found = network.noisy_features(x, h.sigma)
    torch.manual_seed(3)
    vectors = network.featurizer.embedder(x)
    expected = torch.tanh((vectors + h.sigma * torch.randn_like(vectors)).mean(dim=1))
    assert torch.equal(found, expected)
    assert not torch.equal(found, network.features(x)), "later passes are without noise"
    algorithm.build_optimizers()
    before = network.featurizer.embedder.weight.clone()
    step = [Batch(x, torch.randint(4, (16,)), torch.arange(16), 0)]
    logged = algorithm.update(step)
    assert logged["radius"] > 0
    assert not torch.equal(before, network.featurizer.embedder.weight)


def test_the_authors_reduction_divides_by_examples_and_classes(toy: SimpleNamespace) -> None:
    options = {"distance": "noise", **OPTIONS}
    toy.agrees(toy.make(TRAM, kl_reduction="repo", **options), reference("noise", "repo"))
    radii = [toy.take(toy.make(TRAM, kl_reduction=name, **options), 0)["radius"] for name in ("repo", "batchmean")]
    assert radii[0] == pytest.approx(radii[1] / (16 * 4), rel=1e-12)


def test_the_reference_is_the_weights_of_a_step_ago(toy: SimpleNamespace) -> None:
    """A copy refreshed after the optimizer's step would be the present model, and the radius 0 for ever."""
    algorithm = toy.make(TRAM, dropout=0.5)
    assert toy.take(algorithm, 0)["radius"] == 0.0
    before = [p.detach().clone() for p in algorithm.network.parameters()]
    assert toy.take(algorithm, 1)["radius"] > 1e-6
    for kept, old, now in zip(algorithm.reference.parameters(), before, algorithm.network.parameters(), strict=True):
        assert torch.equal(kept, old)
        assert not torch.equal(old, now)


def test_pretrained_is_kept_for_ever(toy: SimpleNamespace) -> None:
    algorithm = toy.make(TRAM, distance="pretrained")
    before = [p.detach().clone() for p in algorithm.network.parameters()]
    radii = [toy.take(algorithm, step)["radius"] for step in range(4)]
    assert radii == sorted(radii)
    assert all(torch.equal(p, q) for p, q in zip(algorithm.reference.parameters(), before, strict=True))


@pytest.mark.parametrize("options", [{"distance": "noise", "sigma": 0.0}, {"distance": "fisher", "fisher_gamma": 0.0}])
def test_without_radius_it_is_erm(toy: SimpleNamespace, options: dict[str, Any]) -> None:
    tram, erm = toy.make(TRAM, **options), toy.make(ERM)
    for step in range(3):
        toy.take(tram, step)
        toy.take(erm, step)
    for p, q in zip(tram.parameters(), erm.parameters(), strict=True):
        assert torch.equal(p, q)


def test_a_divergence_that_rounding_puts_below_nothing_is_no_radius(toy: SimpleNamespace) -> None:
    """In single precision; a negative radius would go downhill."""
    torch.set_default_dtype(torch.float32)
    generator = torch.Generator().manual_seed(15)
    logits = 2 * torch.randn(16, 4, generator=generator)
    other = logits + 1e-6 * torch.randn(16, 4, generator=generator)
    algorithm = toy.make(TRAM, distance="pretrained")
    algorithm.network.classifier = algorithm.reference.classifier = nn.Identity()
    algorithm.reference.featurizer = nn.Identity()
    now, then = (F.log_softmax(z, dim=1) for z in (logits, other))
    assert F.kl_div(now, then, reduction="batchmean", log_target=True) < 0, "or this test says nothing"
    assert algorithm.radius(other, logits) == 0


@pytest.mark.parametrize("distance", DISTANCES)
def test_frozen_parameters_stay(toy: SimpleNamespace, distance: str) -> None:
    algorithm = toy.make(TRAM, distance=distance)
    algorithm.network.featurizer[0].requires_grad_(False)
    frozen = algorithm.network.featurizer[0].weight.clone()
    for step in range(2):
        toy.take(algorithm, step)
    assert torch.equal(algorithm.network.featurizer[0].weight, frozen)


def test_live_batch_norm_remembers_the_first_pass_alone(toy: SimpleNamespace) -> None:
    for distance in DISTANCES:
        algorithm = toy.make(TRAM, norm="live", distance=distance)
        toy.take(algorithm, 0)
        assert algorithm.network.featurizer[1].num_batches_tracked.item() == 1


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UserError, match="distance is one of"):
        TRAM.Hparams(distance="previos")
    with pytest.raises(UserError, match="kl_reduction is one of"):
        TRAM.Hparams(kl_reduction="mean")
    with pytest.raises(UserError, match="sigma must be at least 0"):
        TRAM.Hparams(sigma=-1.0)


@pytest.mark.parametrize("distance", DISTANCES)
def test_resumes_exactly(toy: SimpleNamespace, optimizer: str, distance: str) -> None:
    toy.resumes(TRAM, norm="live", optimizer=optimizer, dropout=0.3, distance=distance)
