from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dgbench.algorithms.erm import ERM
from dgbench.algorithms.hgp import HGP
from dgbench.methods.batch import Batch

ALPHA, BETA = 0.3, 0.2


def flat(tensors: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([t.reshape(-1) for t in tensors])


def penalty(losses: list[Tensor], head: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean loss and penalty; H g as ||g|| times the gradient of ||g||, the mean's from the mean loss itself."""

    def parts(loss: Tensor) -> tuple[Tensor, Tensor]:
        g = flat(torch.autograd.grad(loss, head, create_graph=True))
        product = g.norm() * flat(torch.autograd.grad(g.norm(), head, create_graph=True))
        return g, product

    mean = sum(losses) / len(losses)
    g_mean, product_mean = (t.detach() for t in parts(mean))
    total = torch.zeros(())
    for loss in losses:
        g, product = parts(loss)
        total = total + ALPHA * ((product - product_mean) ** 2).sum() + BETA * ((g - g_mean) ** 2).sum()
    return mean, total / len(losses)


def reference(*, per_domain: bool) -> Callable[[SimpleNamespace, list[Batch], int], dict[str, Tensor]]:
    def step_(other: SimpleNamespace, batches: list[Batch], step: int) -> dict[str, Tensor]:
        network = other.network
        if per_domain:
            logits = [network(b.x) for b in batches]
        else:
            logits = list(torch.split(network(torch.cat([b.x for b in batches])), [len(b.y) for b in batches]))
        losses = [F.cross_entropy(z, b.y) for z, b in zip(logits, batches, strict=True)]
        mean, extra = penalty(losses, list(network.classifier.parameters()))
        other.optimizer.zero_grad()
        (mean + extra).backward()
        other.optimizer.step()
        return {"loss": (mean + extra).detach(), "nll": mean.detach(), "penalty": extra.detach()}

    return step_


@pytest.mark.parametrize("nonlinear", [False, True])
def test_equals_a_plain_loop(toy: SimpleNamespace, norm: str, optimizer: str, nonlinear: bool) -> None:
    options = {"norm": norm, "optimizer": optimizer, "nonlinear": nonlinear}
    algorithm = toy.make(HGP, hgp_alpha=ALPHA, hgp_beta=BETA, **options)
    toy.agrees(algorithm, reference(per_domain=True))


def test_equals_a_plain_loop_with_dropout(toy: SimpleNamespace) -> None:
    algorithm = toy.make(HGP, hgp_alpha=ALPHA, hgp_beta=BETA, dropout=0.5)
    toy.agrees(algorithm, reference(per_domain=False))


@pytest.mark.parametrize(("norm", "passes"), [("none", 1), ("frozen", 1), ("live", 3)])
def test_features_of_live_batch_norm_are_computed_per_domain(toy: SimpleNamespace, norm: str, passes: int) -> None:
    algorithm = toy.make(HGP, norm=norm)
    seen = []
    algorithm.network.featurizer.register_forward_hook(lambda _, __, out: seen.append(len(out)))
    toy.take(algorithm, 0)
    assert len(seen) == passes
    assert sum(seen) == sum(len(b.y) for b in toy.batches(0))


def test_analytic_products_of_a_linear_softmax_head(toy: SimpleNamespace) -> None:
    """H = mean of (diag p - p p') kron z z', g = mean of (p - y) kron z, with z extended by 1 for the bias."""
    algorithm = toy.make(HGP, hgp_alpha=ALPHA, hgp_beta=BETA)
    gradients, hessians = [], []
    for batch in toy.batches(0):
        z = torch.cat([algorithm.network.features(batch.x), torch.ones(len(batch.y), 1)], 1).detach()
        head = algorithm.network.classifier
        p = (z @ torch.cat([head.weight, head.bias[:, None]], 1).T).softmax(1).detach()
        error = p - F.one_hot(batch.y, p.shape[1])
        gradients.append(torch.einsum("nc,nd->cd", error, z).reshape(-1) / len(z))
        curvature = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
        hessian = torch.einsum("nab,nc,nd->acbd", curvature, z, z) / len(z)
        hessians.append(hessian.reshape(len(gradients[-1]), -1))
    g, h = sum(gradients) / 3, sum(hessians) / 3
    expected = sum(
        ALPHA * (he @ ge - h @ g).square().sum() + BETA * (ge - g).square().sum()
        for he, ge in zip(hessians, gradients, strict=True)
    )
    assert toy.take(algorithm, 0)["penalty"] == pytest.approx(expected.item() / 3, abs=1e-12)


def test_equal_domains_have_no_penalty(toy: SimpleNamespace) -> None:
    algorithm = toy.make(HGP, hgp_alpha=1e3, hgp_beta=1e3)
    batch = toy.batches(0)[0]
    assert algorithm.update([batch, batch, batch])["penalty"].item() == pytest.approx(0, abs=1e-20)


def test_without_weights_it_is_erm_on_equal_batches(toy: SimpleNamespace) -> None:
    hgp, erm = toy.make(HGP, hgp_alpha=0.0, hgp_beta=0.0), toy.make(ERM)
    for step in range(3):
        data = toy.batches(step, sizes=(4, 4, 4))
        hgp.update(data)
        erm.update(data)
    for p, q in zip(hgp.parameters(), erm.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-12)


def test_the_penalty_reaches_the_features(toy: SimpleNamespace) -> None:
    small, large = toy.make(HGP, hgp_alpha=0.0, hgp_beta=0.0), toy.make(HGP, hgp_alpha=0.0, hgp_beta=1.0)
    for algorithm in (small, large):
        toy.take(algorithm, 0)
    gradients = [algorithm.network.featurizer[0].weight.grad for algorithm in (small, large)]
    assert (gradients[0] - gradients[1]).abs().max() > 1e-4


@pytest.mark.parametrize("nonlinear", [False, True])
def test_resumes_exactly(toy: SimpleNamespace, optimizer: str, nonlinear: bool) -> None:
    toy.resumes(HGP, norm="live", optimizer=optimizer, nonlinear=nonlinear, dropout=0.3)
