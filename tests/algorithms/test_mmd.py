from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dgbench.algorithms._moments import GAMMAS, _kernel, mmd
from dgbench.algorithms.erm import ERM
from dgbench.algorithms.mmd import MMD
from dgbench.methods.batch import Batch


def kernel(a: Tensor, b: Tensor) -> Tensor:
    """Mean over all pairs of rows, from the differences themselves."""
    squares = ((a[:, None] - b[None]) ** 2).sum(dim=2)
    return sum(torch.exp(-gamma * squares) for gamma in (1e-3, 1e-2, 1e-1, 1, 10, 100, 1000)).mean()


def reference(other: SimpleNamespace, batches: list[Batch], step: int) -> dict[str, Tensor]:
    features = [other.network.features(b.x) for b in batches]
    nll = sum(F.cross_entropy(other.network.classifier(z), b.y) for z, b in zip(features, batches, strict=True))
    pairs = [(features[i], features[j]) for i in range(len(batches)) for j in range(i)]
    total = sum(kernel(a, a) + kernel(b, b) - 2 * kernel(a, b) for a, b in pairs)
    other.optimizer.zero_grad()
    (nll / len(batches) + 2.0 * total / len(pairs)).backward()
    other.optimizer.step()
    return {"nll": (nll / len(batches)).detach(), "penalty": (total / len(pairs)).detach()}


@pytest.mark.parametrize("domains", [2, 3])
def test_equals_a_plain_loop(toy: SimpleNamespace, norm: str, optimizer: str, domains: int) -> None:
    toy.agrees(toy.make(MMD, norm=norm, optimizer=optimizer, domains=domains, mmd_gamma=2.0), reference)


def test_discrepancy_of_two_points() -> None:
    expected = 2 * sum(1 - math.exp(-gamma * 0.25) for gamma in GAMMAS)
    assert mmd([torch.tensor([[1.0]]), torch.tensor([[1.5]])]).item() == pytest.approx(expected, abs=1e-13)


def test_rounding_far_from_the_origin_does_not_count() -> None:
    """In single precision the squares of such coordinates are only known to 4, at a kernel as sharp as 1e-3."""
    near = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    sets = [near[:3].float() + 4096, near[3:].float() + 4096]
    exact = mmd([x.double() for x in sets])
    assert mmd(sets).item() == pytest.approx(exact.item(), abs=1e-5)


def test_rounding_puts_no_rows_nearer_than_at_no_distance() -> None:
    """Two tight clusters far apart: in single precision some distances come out below 0, where kernels exceed 1."""
    generator = torch.Generator().manual_seed(0)
    centre = 30 * torch.randn(1, 8, generator=generator).float()
    jitter = 1e-4 * torch.randn(12, 8, generator=generator).float()
    rows = torch.cat([centre + jitter[:6], -centre + jitter[6:]])
    centred = rows - rows.mean(dim=0)
    norms = centred.square().sum(dim=1)
    assert (norms[:, None] + norms - 2 * centred @ centred.T).min() < -1e-4, "or this test says nothing"
    assert _kernel(rows).max() <= len(GAMMAS)


def test_a_row_is_at_no_distance_from_itself() -> None:
    rows = 100 * torch.randn(16, 64, generator=torch.Generator().manual_seed(0)).float()
    assert (_kernel(rows).diagonal() == len(GAMMAS)).all()


def test_equal_domains_have_no_discrepancy(toy: SimpleNamespace) -> None:
    data = toy.batches(0)[0]
    assert toy.make(MMD).update([data, data, data])["penalty"].item() == pytest.approx(0, abs=1e-9)


def test_without_weight_it_is_erm(toy: SimpleNamespace) -> None:
    algorithm, erm = toy.make(MMD, mmd_gamma=0.0), toy.make(ERM)
    for step in range(3):
        data = toy.batches(step, sizes=(4, 4, 4))
        algorithm.update(data)
        erm.update(data)
    for p, q in zip(algorithm.parameters(), erm.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-12)


def test_resumes_exactly(toy: SimpleNamespace, optimizer: str) -> None:
    toy.resumes(MMD, norm="live", optimizer=optimizer, dropout=0.3)
