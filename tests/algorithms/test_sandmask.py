from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from dgbench.algorithms.sandmask import SANDMask
from dgbench.core.errors import UserError
from dgbench.core.space import space_of
from dgbench.methods.batch import Batch


def mask_of(values: list[float], tau: float, k: float) -> float:
    ups = sum(v > 0 for v in values) - sum(v < 0 for v in values)
    beyond, variance = abs(ups) / len(values) - tau, statistics.variance(values)
    return max(0.0, math.tanh(k * beyond / variance) if variance else math.copysign(1, beyond))


def reference(tau: float, k: float) -> Callable[[SimpleNamespace, list[Batch], int], None]:
    def step_(other: SimpleNamespace, batches: list[Batch], step: int) -> None:
        parameters = list(other.network.parameters())
        found = [torch.autograd.grad(F.cross_entropy(other.network(b.x), b.y), parameters) for b in batches]
        for p, *gradients in zip(parameters, *found, strict=True):
            rows = torch.stack(gradients).flatten(1).T.tolist()
            masks = [mask_of(values, tau, k) for values in rows]
            masked = [m * sum(values) / len(values) for m, values in zip(masks, rows, strict=True)]
            p.grad = torch.tensor(masked).view_as(p) / max(sum(masks) / len(masks), 1e-10)
        other.optimizer.step()

    return step_


@pytest.mark.parametrize(("domains", "tau", "k"), [(3, 0.5, 10.0), (3, 0.2, 1e-3), (2, 0.5, 1e-3)])
def test_equals_a_plain_loop(
    toy: SimpleNamespace, norm: str, optimizer: str, domains: int, tau: float, k: float
) -> None:
    options = {"norm": norm, "optimizer": optimizer, "domains": domains}
    toy.agrees(
        toy.make(SANDMask, tau=tau, k=k, **options),
        reference(tau, k),
        logs=lambda losses: {"loss": sum(losses) / domains},
    )


def test_learns_at_its_defaults(toy: SimpleNamespace) -> None:
    algorithm = toy.make(SANDMask)
    before = [p.detach().clone() for p in algorithm.parameters()]
    logged = toy.take(algorithm, 0)
    assert 0 < logged["kept"] < 1
    assert not any(torch.equal(p, q) for p, q in zip(algorithm.parameters(), before, strict=True))


def test_mask_of_known_gradients(toy: SimpleNamespace) -> None:
    """Two domains: agreeing with variance 2; opposed; agreeing to the last bit; without any gradient."""
    algorithm = toy.make(SANDMask, domains=2, tau=0.5, k=1.0)
    mask = algorithm._mask(torch.tensor([[1.0, 1.0, 3.0, 0.0], [3.0, -1.0, 3.0, 0.0]]))
    torch.testing.assert_close(mask, torch.tensor([math.tanh(0.25), 0.0, 1.0, 0.0]), rtol=0, atol=1e-15)


def test_neither_variance_nor_margin_is_no_mask(toy: SimpleNamespace) -> None:
    assert toy.make(SANDMask, domains=2, tau=0.0)._mask(torch.zeros(2, 3)).tolist() == [0, 0, 0]


def test_space_is_domainbeds_but_for_a_default_that_trains() -> None:
    by_name = {spec.name: spec for spec in space_of(SANDMask.Hparams)}
    assert (by_name["tau"].default, str(by_name["tau"].draw)) == (0.5, "U(0, 1)")
    assert (by_name["k"].default, str(by_name["k"].draw)) == (10.0, "10^U(-3, 5)")


@pytest.mark.parametrize("tau", [-0.1, 1.0])
def test_a_threshold_that_lets_nothing_through_is_refused(tau: float) -> None:
    with pytest.raises(UserError, match=r"tau must lie in \[0, 1\)"):
        SANDMask.Hparams(tau=tau)


def test_resumes_exactly(toy: SimpleNamespace, optimizer: str) -> None:
    toy.resumes(SANDMask, norm="live", optimizer=optimizer, dropout=0.3)
