from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dgbench.algorithms._moments import coral, covariance
from dgbench.algorithms.coral import CORAL
from dgbench.algorithms.erm import ERM
from dgbench.methods.batch import Batch


def distance(a: Tensor, b: Tensor) -> Tensor:
    means = ((a.mean(0) - b.mean(0)) ** 2).mean()
    return means + ((torch.cov(a.T) - torch.cov(b.T)) ** 2).mean()


def reference(other: SimpleNamespace, batches: list[Batch], step: int) -> dict[str, Tensor]:
    features = [other.network.features(b.x) for b in batches]
    nll = sum(F.cross_entropy(other.network.classifier(z), b.y) for z, b in zip(features, batches, strict=True))
    pairs = [distance(features[i], features[j]) for i in range(len(batches)) for j in range(i)]
    other.optimizer.zero_grad()
    (nll / len(batches) + 2.0 * sum(pairs) / len(pairs)).backward()
    other.optimizer.step()
    return {"nll": (nll / len(batches)).detach(), "penalty": (sum(pairs) / len(pairs)).detach()}


@pytest.mark.parametrize("domains", [2, 3])
def test_equals_a_plain_loop(toy: SimpleNamespace, norm: str, optimizer: str, domains: int) -> None:
    toy.agrees(toy.make(CORAL, norm=norm, optimizer=optimizer, domains=domains, mmd_gamma=2.0), reference)


def test_distance_of_known_sets() -> None:
    """Means 1 and 3; variances 2 and 8: 2^2 + 6^2."""
    sets = [torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [5.0]])]
    assert coral(sets).item() == pytest.approx(4 + 36, abs=1e-13)


def test_covariance_is_unbiased_and_of_one_row_zero() -> None:
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(covariance(x), torch.cov(x.T), rtol=0, atol=1e-15)
    assert not covariance(x[:1]).any()


def test_a_shift_or_a_scale_is_seen_and_equal_domains_are_not(toy: SimpleNamespace) -> None:
    algorithm = toy.make(CORAL)
    data = toy.batches(0)[0]
    assert algorithm.update([data, data, data])["penalty"].item() == pytest.approx(0, abs=1e-25)
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    assert coral([x, x + 1]).item() == pytest.approx(1, abs=1e-13)
    assert coral([x - x.mean(0), 2 * (x - x.mean(0))]).item() == pytest.approx(
        9 * torch.cov(x.T).square().mean().item(), abs=1e-13
    )


def test_without_weight_it_is_erm(toy: SimpleNamespace) -> None:
    algorithm, erm = toy.make(CORAL, mmd_gamma=0.0), toy.make(ERM)
    for step in range(3):
        data = toy.batches(step, sizes=(4, 4, 4))
        algorithm.update(data)
        erm.update(data)
    for p, q in zip(algorithm.parameters(), erm.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-12)


def test_resumes_exactly(toy: SimpleNamespace, optimizer: str) -> None:
    toy.resumes(CORAL, norm="live", optimizer=optimizer, dropout=0.3)
