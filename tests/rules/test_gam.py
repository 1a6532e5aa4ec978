from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from dgbench.algorithms.erm import ERM
from dgbench.core.errors import UserError
from dgbench.methods.batch import Batch
from dgbench.rules.gam import GAM
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

R, RR, GAMMA = 0.1, 0.2, 0.6
PAPER = {"beta_0": 0.3, "beta_1": 0.2, "beta_2": 0.7, "beta_3": 0.8}
CODE = {"beta_0": 1.0, "beta_1": 1.0, "beta_2": 1.0, "beta_3": 1.0}


def logs(losses: list[float]) -> dict[str, float]:
    """The second pass is at SAM's displacement, those after it look at the gradient's norm."""
    return {"loss": losses[0], "sharpness": losses[1] - losses[0]}


def combined(betas: dict[str, float], network: nn.Module, loss: Loss) -> list[Tensor]:
    """The descent of one step, from the four gradients of the paper's accelerated form."""
    b0, b1, b2, b3 = (betas[f"beta_{i}"] for i in range(4))
    g0 = gradient_of(network, loss)
    g1 = gradient_at(network, loss, times(R / (norm_of(g0) + 1e-12), g0))
    h0 = plus(g1, times(-1, g0))
    e2 = times(RR / (norm_of(h0) + 1e-12), h0)
    g2 = gradient_at(network, loss, e2)
    g3 = gradient_at(network, loss, plus(e2, times(R / (norm_of(g2) + 1e-12), g2)))
    h, k = plus(times(b1, g1), times(b3, g3)), plus(times(b0, g0), times(b2, g2))
    along = torch.dot(flat(k), flat(h)) / torch.dot(flat(h), flat(h))
    return plus(h, times(-GAMMA, plus(k, times(-along, h))))


def reference(betas: dict[str, float]) -> Callable[[SimpleNamespace, list[Batch], int], None]:
    return lambda other, batches, number: step(other, combined(betas, other.network, erm(batches)))


@pytest.mark.parametrize("betas", [PAPER, CODE])
def test_equals_a_plain_loop(toy: SimpleNamespace, norm: str, optimizer: str, betas: dict[str, float]) -> None:
    options = {"norm": norm, "optimizer": optimizer, "grad_rho": R, "grad_norm_rho": RR, "gamma": GAMMA}
    toy.agrees(toy.make(GAM, **options, **betas), reference(betas), logs=logs)


def test_default_betas_are_the_papers_algorithm() -> None:
    h = GAM.Hparams()
    assert (h.beta_0 + h.beta_2, h.beta_1 + h.beta_3) == (1.0, 1.0)
    assert (h.beta_1, h.beta_2, h.beta_3, h.gamma) == (0.1, 0.9, 0.9, 0.05)


def test_without_betas_nothing_moves(toy: SimpleNamespace) -> None:
    """Of nothing in h, k is orthogonal as a whole: with k of g_0 alone and gamma 0, the gradient is 0."""
    algorithm = toy.make(GAM, weight_decay=0.0, gamma=0.0, beta_0=1.0, beta_1=0.0, beta_2=0.0, beta_3=0.0)
    before = flat([p.detach().clone() for p in algorithm.parameters()])
    toy.take(algorithm, 0)
    assert torch.equal(flat([p.detach() for p in algorithm.parameters()]), before)


def test_passes_are_at_the_four_points(toy: SimpleNamespace) -> None:
    algorithm = toy.make(GAM, grad_rho=R, grad_norm_rho=RR)
    uphill, steeper, both = displacements(algorithm, toy.batches(0))
    assert norm_of(uphill).item() == pytest.approx(R, abs=1e-9)
    assert norm_of(steeper).item() == pytest.approx(RR, abs=1e-9)
    assert norm_of(plus(both, times(-1, steeper))).item() == pytest.approx(R, abs=1e-9)


def test_live_batch_norm_remembers_the_first_pass_alone(toy: SimpleNamespace) -> None:
    gam, erm_ = toy.make(GAM, norm="live"), toy.make(ERM, norm="live")
    toy.take(gam, 0)
    toy.take(erm_, 0)
    kept, plain = (a.network.featurizer[1] for a in (gam, erm_))
    assert isinstance(kept, nn.BatchNorm1d)
    assert kept.num_batches_tracked.item() == 1
    assert torch.equal(kept.running_mean, plain.running_mean)


def test_without_radii_it_is_erm(toy: SimpleNamespace, optimizer: str) -> None:
    gam = toy.make(GAM, optimizer=optimizer, grad_rho=0.0, grad_norm_rho=0.0, gamma=GAMMA)
    train_alike(toy, gam, toy.make(ERM, optimizer=optimizer))


def test_negative_radii_are_refused() -> None:
    with pytest.raises(UserError, match="grad_norm_rho must be at least 0, not -1"):
        GAM.Hparams(grad_norm_rho=-1.0)


def test_resumes_exactly(toy: SimpleNamespace, optimizer: str) -> None:
    toy.resumes(GAM, norm="live", optimizer=optimizer, dropout=0.3)
