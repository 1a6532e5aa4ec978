from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dgbench.core.errors import UserError
from dgbench.methods.batch import Batch
from dgbench.rules.disam import DISAM
from dgbench.rules.sam import SAM
from tests.algorithms.uphill import (
    Loss,
    displacements,
    erm,
    flat,
    gradient_at,
    gradient_of,
    norm_of,
    plus,
    step,
    times,
    train_alike,
)

RHO, LAMBDA = 0.1, 0.9


def ascent(batches: list[Batch], weighting: str) -> Loss:
    def loss(network: nn.Module) -> torch.Tensor:
        logits = network(torch.cat([b.x for b in batches]))
        per_domain, start = [], 0
        for b in batches:
            per_domain.append(F.cross_entropy(logits[start : start + len(b.y)], b.y))
            start += len(b.y)
        total = F.cross_entropy(logits, torch.cat([b.y for b in batches]))
        if weighting == "domains":
            mean = sum(per_domain) / len(per_domain)
            variance = sum((one - mean) ** 2 for one in per_domain) / len(per_domain)
        else:
            variance = sum(len(b.y) / start * (one - total) ** 2 for b, one in zip(batches, per_domain, strict=True))
        return total - LAMBDA * variance

    return loss


def reference(weighting: str) -> Callable[[SimpleNamespace, list[Batch], int], dict[str, float]]:
    def step_(other: SimpleNamespace, batches: list[Batch], number: int) -> dict[str, float]:
        value, low = (loss(copy.deepcopy(other.network)).item() for loss in (erm(batches), ascent(batches, weighting)))
        g = gradient_of(other.network, ascent(batches, weighting))
        step(other, gradient_at(other.network, erm(batches), times(RHO / (norm_of(g) + 1e-12), g)))
        return {"loss": value, "variance": (value - low) / LAMBDA}

    return step_


@pytest.mark.parametrize("weighting", ["domains", "examples"])
def test_equals_a_plain_loop(toy: SimpleNamespace, norm: str, optimizer: str, weighting: str) -> None:
    options = {"norm": norm, "optimizer": optimizer, "rho": RHO, "disam_lambda": LAMBDA, "weighting": weighting}
    toy.agrees(toy.make(DISAM, **options), reference(weighting))


def test_the_step_uphill_weighs_two_domains_by_their_losses(toy: SimpleNamespace) -> None:
    """The weight of domain i is n_i / n - (2 lambda / M) (L_i - mean L), M = 2 domains."""
    algorithm = toy.make(DISAM, rho=RHO, disam_lambda=LAMBDA, domains=2)
    batches = toy.batches(0)[:2]
    parameters = list(algorithm.network.parameters())
    losses = [F.cross_entropy(algorithm(b.x), b.y) for b in batches]
    each = [torch.autograd.grad(one, parameters) for one in losses]
    mean = (losses[0] + losses[1]) / 2
    n = sum(len(b.y) for b in batches)
    weights = [(len(b.y) / n - LAMBDA * (one - mean)).item() for b, one in zip(batches, losses, strict=True)]
    direction = flat(plus(*(times(w, list(g)) for w, g in zip(weights, each, strict=True))))
    (by,) = displacements(algorithm, batches)
    torch.testing.assert_close(flat(by), RHO * direction / direction.norm(), rtol=0, atol=1e-12)


def test_weightings_are_one_where_minibatches_are_equally_large(toy: SimpleNamespace) -> None:
    found = []
    for weighting in ("domains", "examples"):
        algorithm = toy.make(DISAM, rho=RHO, disam_lambda=LAMBDA, weighting=weighting)
        (by,) = displacements(algorithm, toy.batches(0, sizes=(4, 4, 4)))
        found.append(flat(by))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-14)


def test_without_lambda_it_is_sam(toy: SimpleNamespace, optimizer: str) -> None:
    disam = toy.make(DISAM, optimizer=optimizer, rho=RHO, disam_lambda=0.0)
    train_alike(toy, disam, toy.make(SAM, optimizer=optimizer, rho=RHO))


def test_of_equal_domains_it_is_sam(toy: SimpleNamespace) -> None:
    disam, sam = toy.make(DISAM, rho=RHO, disam_lambda=LAMBDA), toy.make(SAM, rho=RHO)
    batch = toy.batches(0)[0]
    for algorithm in (disam, sam):
        algorithm.update([batch, batch, batch])
    for p, q in zip(disam.parameters(), sam.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-12)


def test_an_unknown_weighting_is_refused() -> None:
    with pytest.raises(UserError, match="is one of domains"):
        DISAM.Hparams(weighting="domain")


def test_resumes_exactly(toy: SimpleNamespace, optimizer: str) -> None:
    toy.resumes(DISAM, norm="live", optimizer=optimizer, dropout=0.3)
