from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.stats import norm as gaussian
from torch.nn import functional as F

from dgbench.algorithms.eqrm import EQRM, quantile
from dgbench.core.errors import UserError
from dgbench.core.space import resolve, space_of
from dgbench.methods.batch import Batch

BURN_IN, ALPHA, LR = 2, 0.8, 3e-3


def by_root_finding(risks: np.ndarray, alpha: float) -> tuple[float, float]:
    """The quantile and the bandwidth."""
    h = 1.06 * risks.std(ddof=1) * len(risks) ** -0.2
    low, high = risks.min() - 9 * h, risks.max() + 9 * h
    return brentq(lambda r: gaussian.cdf((r - risks) / h).mean() - alpha, low, high, xtol=1e-15, rtol=1e-15), h


def reference(
    toy: SimpleNamespace, algorithm: EQRM
) -> Callable[[SimpleNamespace, list[Batch], int], dict[str, torch.Tensor]]:
    def step_(other: SimpleNamespace, batches: list[Batch], step: int) -> dict[str, torch.Tensor]:
        if step == BURN_IN:
            other.optimizer = toy.hand_made(algorithm, other.network)
            other.optimizer.param_groups[0]["lr"] = LR
        risks = torch.stack([F.cross_entropy(other.network(b.x), b.y) for b in batches])
        loss = risks.mean()
        if step >= BURN_IN:
            values = risks.detach().numpy()
            q, h = by_root_finding(values, ALPHA)
            # 0 = sum_e phi_e d[(q - L_e) / h] gives dq = sum_e s_e [dL_e + (q - L_e) / h dh], s_e = phi_e / sum.
            shares = torch.from_numpy(gaussian.pdf((q - values) / h))
            shares = shares / shares.sum()
            bandwidth = 1.06 * risks.std() * len(risks) ** -0.2
            loss = shares @ risks + (shares @ (q - risks.detach()) / h) * bandwidth
        other.optimizer.zero_grad()
        loss.backward()
        other.optimizer.step()
        return {"loss": loss.detach(), "nll": risks.detach().mean()}

    return step_


def test_equals_a_plain_loop_across_the_burn_in(toy: SimpleNamespace, norm: str, optimizer: str) -> None:
    options = {"eqrm_burnin_iters": BURN_IN, "eqrm_quantile": ALPHA, "eqrm_lr": LR}
    algorithm = toy.make(EQRM, norm=norm, optimizer=optimizer, **options)
    toy.agrees(algorithm, reference(toy, algorithm), steps=5)


@pytest.mark.parametrize("alpha", [0.01, 0.5, 0.75, 0.999])
@pytest.mark.parametrize("risks", [[0.3, 2.0], [0.3, 0.9, 1.4], [0.1, 0.11, 0.12, 5.0]])
def test_quantile_and_its_derivative(risks: list[float], alpha: float) -> None:
    leaf = torch.tensor(risks, requires_grad=True)
    value = quantile(leaf, alpha)
    assert value.item() == pytest.approx(by_root_finding(np.array(risks), alpha)[0], abs=1e-13)
    value.backward()
    for e in range(len(risks)):
        ends = []
        for change in (1e-5, -1e-5):
            moved = np.array(risks)
            moved[e] += change
            ends.append(by_root_finding(moved, alpha)[0])
        assert leaf.grad[e].item() == pytest.approx((ends[0] - ends[1]) / 2e-5, abs=1e-7)


def test_all_domains_as_one_shift_the_quantile_as_one() -> None:
    leaf = torch.tensor([0.3, 0.9, 1.4], requires_grad=True)
    quantile(leaf, 0.75).backward()
    assert leaf.grad.sum().item() == pytest.approx(1, abs=1e-12)
    assert (leaf.grad.abs() > 1e-3).all()


def test_equal_losses_give_finite_gradients() -> None:
    leaf = torch.full((3,), 0.7, requires_grad=True)
    value = quantile(leaf, 0.75)
    value.backward()
    assert value.item() == pytest.approx(0.7, abs=1e-5)
    torch.testing.assert_close(leaf.grad, torch.full((3,), 1 / 3))


def test_single_precision_is_good_to_its_digits() -> None:
    risks = torch.tensor([0.3, 0.9, 1.4], dtype=torch.float32)
    assert quantile(risks, 0.75).item() == pytest.approx(quantile(risks.double(), 0.75).item(), abs=3e-7)


def test_the_burn_in_is_whole_so_that_it_ends_in_every_draw() -> None:
    space = space_of(EQRM.Hparams)
    by_name = {spec.name: spec for spec in space}
    burn_in = by_name["eqrm_burnin_iters"]
    assert (burn_in.default, str(burn_in.draw)) == (2500, "int 10^U(2.5, 3.5)")
    assert all(isinstance(resolve(space, hparams_seed=s)["eqrm_burnin_iters"], int) for s in range(5))
    assert (by_name["eqrm_quantile"].default, str(by_name["eqrm_quantile"].draw)) == (0.75, "U(0.5, 0.99)")
    assert (by_name["eqrm_lr"].default, str(by_name["eqrm_lr"].draw)) == (1e-6, "10^U(-7, -5)")


def test_the_learning_rate_falls_at_the_end_of_the_burn_in(toy: SimpleNamespace) -> None:
    algorithm = toy.make(EQRM, eqrm_burnin_iters=BURN_IN, eqrm_lr=LR)
    rates = []
    for step in range(4):
        toy.take(algorithm, step)
        rates.append(algorithm.optimizer.param_groups[0]["lr"])
    assert rates == [1e-2, 1e-2, LR, LR]


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_a_quantile_outside_is_refused(alpha: float) -> None:
    with pytest.raises(UserError, match=r"must lie in \(0, 1\)"):
        EQRM.Hparams(eqrm_quantile=alpha)


@pytest.mark.parametrize("burn_in", [1, 3, 5])
def test_resumes_exactly_before_at_and_after_the_burn_in(toy: SimpleNamespace, optimizer: str, burn_in: int) -> None:
    toy.resumes(EQRM, optimizer=optimizer, eqrm_burnin_iters=burn_in, eqrm_lr=LR, dropout=0.3)
