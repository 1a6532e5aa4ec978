from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dgbench.algorithms import hutchinson
from dgbench.algorithms._head import derivative, hessian_diagonal, hessian_products, losses_by_copies
from dgbench.algorithms.erm import ERM
from dgbench.algorithms.hutchinson import Hutchinson
from dgbench.core.errors import UserError
from dgbench.methods.batch import Batch

ALPHA, BETA, SAMPLES = 0.3, 0.2, 7
OPTIONS = {"hutchinson_alpha": ALPHA, "hutchinson_beta": BETA, "hutchinson_samples": SAMPLES}


def flat(tensors: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([t.reshape(-1) for t in tensors])


def estimate(loss: Tensor, head: list[Tensor], probes: Tensor) -> Tensor:
    """One Hessian-vector product a probe."""
    g = flat(torch.autograd.grad(loss, head, create_graph=True))
    total = torch.zeros(())
    for probe in probes:
        total = total + probe * flat(torch.autograd.grad(g @ probe, head, create_graph=True))
    return total / len(probes)


def exact(loss: Tensor, head: list[Tensor]) -> Tensor:
    """One row of the Hessian a parameter."""
    g = flat(torch.autograd.grad(loss, head, create_graph=True))
    rows = [flat(torch.autograd.grad(g[j], head, create_graph=True)) for j in range(len(g))]
    return torch.stack([row[j] for j, row in enumerate(rows)])


def reference(estimator: str, live: bool) -> Callable[[SimpleNamespace, list[Batch], int], dict[str, Tensor]]:
    def step_(other: SimpleNamespace, batches: list[Batch], step: int) -> dict[str, Tensor]:
        network, head = other.network, list(other.network.classifier.parameters())
        if live:
            features = [network.dropout(network.features(b.x)) for b in batches]
        else:
            z = network.dropout(network.features(torch.cat([b.x for b in batches])))
            features = list(torch.split(z, [len(b.y) for b in batches]))
        losses = [F.cross_entropy(network.classifier(z), b.y) for z, b in zip(features, batches, strict=True)]
        mean = sum(losses) / len(losses)
        size = sum(p.numel() for p in head)
        if estimator == "probes":
            common = torch.randint(2, (SAMPLES, 1, size)).double() * 2 - 1
            own = torch.randint(2, (SAMPLES, len(losses), size)).double() * 2 - 1
            of_mean = estimate(mean, head, common[:, 0]).detach()
            diagonals = [estimate(loss, head, own[:, i]) for i, loss in enumerate(losses)]
        else:
            of_mean, diagonals = exact(mean, head).detach(), [exact(loss, head) for loss in losses]
        g_mean = flat(torch.autograd.grad(mean, head, retain_graph=True))
        penalty = torch.zeros(())
        for loss, diagonal in zip(losses, diagonals, strict=True):
            g = flat(torch.autograd.grad(loss, head, create_graph=True))
            gap = ALPHA * ((diagonal - of_mean) ** 2).sum() + BETA * ((g - g_mean) ** 2).sum()
            penalty = penalty + gap / len(losses)
        other.optimizer.zero_grad()
        (mean + penalty).backward()
        other.optimizer.step()
        return {"loss": (mean + penalty).detach(), "nll": mean.detach(), "penalty": penalty.detach()}

    return step_


@pytest.mark.parametrize(("estimator", "nonlinear"), [("probes", False), ("probes", True), ("exact", False)])
def test_equals_a_plain_loop(toy: SimpleNamespace, norm: str, optimizer: str, estimator: str, nonlinear: bool) -> None:
    algorithm = toy.make(
        Hutchinson, norm=norm, optimizer=optimizer, nonlinear=nonlinear, dropout=0.3, estimator=estimator, **OPTIONS
    )
    toy.agrees(algorithm, reference(estimator, norm == "live"))


@pytest.fixture
def tiny() -> tuple[nn.Linear, list[Tensor], list[Tensor]]:
    """A classifier of 3 x 2 + 3 = 9 parameters, and two domains of unequal size."""
    torch.manual_seed(0)
    features = [torch.randn(4, 2), torch.randn(3, 2)]
    return nn.Linear(2, 3), features, [torch.tensor([0, 1, 2, 1]), torch.tensor([2, 0, 0])]


def diagonals_of(tiny: tuple[nn.Linear, list[Tensor], list[Tensor]]) -> Tensor:
    head, features, _ = tiny
    return torch.stack([hessian_diagonal(head, z, torch.full((len(z),), 1 / len(z))) for z in features]).detach()


def both_ways(tiny: tuple[nn.Linear, list[Tensor], list[Tensor]]) -> list[tuple[hutchinson.Products, Tensor]]:
    """Hessian products in closed form and by a derivative, each with the gradients of the domains."""
    head, features, labels = tiny
    losses, copies = losses_by_copies(head, features, labels)
    gradients = derivative(losses.sum(), copies)
    ways = (partial(hessian_products, head, features), partial(hutchinson._derived_products, gradients, copies))
    return [(way, gradients) for way in ways]


def test_the_mean_over_all_sign_vectors_is_the_diagonal(
    toy: SimpleNamespace, tiny: tuple[nn.Linear, list[Tensor], list[Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=9)))[:, None, :]
    monkeypatch.setattr(hutchinson, "_signs", lambda like, count, domains, size: signs.expand(-1, domains, -1))
    algorithm = toy.make(Hutchinson, hutchinson_samples=len(signs))
    expected = diagonals_of(tiny)
    for products, gradients in both_ways(tiny):
        torch.testing.assert_close(algorithm.diagonals(products, gradients), expected, rtol=0, atol=1e-14)
        of_mean = algorithm.diagonal_of_mean(products, gradients)
        torch.testing.assert_close(of_mean, expected.mean(dim=0), rtol=0, atol=1e-14)


def test_the_estimate_converges_to_the_diagonal(
    toy: SimpleNamespace, tiny: tuple[nn.Linear, list[Tensor], list[Tensor]]
) -> None:
    (products, gradients), _ = both_ways(tiny)
    errors = []
    for count in (100, 10_000):
        torch.manual_seed(0)
        found = toy.make(Hutchinson, hutchinson_samples=count).diagonals(products, gradients)
        errors.append((found - diagonals_of(tiny)).square().mean().sqrt().item())
    assert errors[1] == pytest.approx(errors[0] / 10, rel=0.5)  # as 1 / sqrt of their number
    assert errors[1] < 0.01


def test_equal_domains_have_no_exact_penalty(toy: SimpleNamespace) -> None:
    algorithm = toy.make(Hutchinson, estimator="exact", **OPTIONS)
    batch = toy.batches(0)[0]
    assert algorithm.update([batch, batch, batch])["penalty"].item() == pytest.approx(0, abs=1e-20)


@pytest.mark.parametrize("estimator", ["probes", "exact"])
def test_without_weights_it_is_erm_on_equal_batches(toy: SimpleNamespace, estimator: str) -> None:
    ours = toy.make(Hutchinson, hutchinson_alpha=0.0, hutchinson_beta=0.0, estimator=estimator)
    erm = toy.make(ERM)
    for step in range(3):
        data = toy.batches(step, sizes=(4, 4, 4))
        ours.update(data)
        erm.update(data)
    for p, q in zip(ours.parameters(), erm.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-12)


def test_the_diagonals_reach_the_features(toy: SimpleNamespace) -> None:
    gradients = []
    for alpha in (0.0, 10.0):
        algorithm = toy.make(Hutchinson, hutchinson_alpha=alpha, hutchinson_beta=0.0)
        toy.take(algorithm, 0)
        gradients.append(algorithm.network.featurizer[0].weight.grad)
    assert (gradients[0] - gradients[1]).abs().max() > 1e-4


def test_what_cannot_be_is_refused(toy: SimpleNamespace) -> None:
    with pytest.raises(UserError, match="'exact' needs a linear classifier"):
        toy.make(Hutchinson, nonlinear=True, estimator="exact")
    with pytest.raises(UserError, match="hutchinson_samples must be at least 1"):
        Hutchinson.Hparams(hutchinson_samples=0)
    with pytest.raises(UserError, match="estimator is one of"):
        Hutchinson.Hparams(estimator="exct")


@pytest.mark.parametrize("nonlinear", [False, True])
def test_resumes_exactly(toy: SimpleNamespace, optimizer: str, nonlinear: bool) -> None:
    toy.resumes(Hutchinson, norm="live", optimizer=optimizer, nonlinear=nonlinear, dropout=0.3, **OPTIONS)
