from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dgbench.algorithms.causirl import CausIRL_CORAL, CausIRL_MMD
from dgbench.algorithms.erm import ERM
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.batch import Batch

# The module by its name, so that what it uses can be watched.
MODULE = importlib.import_module("dgbench.algorithms.causirl")


def by_moments(a: Tensor, b: Tensor) -> Tensor:
    return ((a.mean(0) - b.mean(0)) ** 2).mean() + ((torch.cov(a.T) - torch.cov(b.T)) ** 2).mean()


def by_kernels(a: Tensor, b: Tensor) -> Tensor:
    def mean_kernel(x: Tensor, y: Tensor) -> Tensor:
        squares = ((x[:, None] - y[None]) ** 2).sum(dim=2)
        return sum(torch.exp(-squares * 10.0**power) for power in range(-3, 4)).mean()

    return mean_kernel(a, a) + mean_kernel(b, b) - 2 * mean_kernel(a, b)


def reference(distance: Callable[[Tensor, Tensor], Tensor]) -> Callable[[SimpleNamespace, list[Batch], int], None]:
    def step_(other: SimpleNamespace, batches: list[Batch], step: int) -> None:
        features = [other.network.features(b.x) for b in batches]
        loss = sum(F.cross_entropy(other.network.classifier(z), b.y) for z, b in zip(features, batches, strict=True))
        loss = loss / len(batches)
        shares = torch.rand(len(batches))
        first, second = [], []
        for z, share in zip(features, shares, strict=True):
            cut = int(share * len(z))
            first += list(z[:cut])
            second += list(z[cut:])
        if len(first) > 1 and len(second) > 1:
            loss = loss + 2.0 * distance(torch.stack(first), torch.stack(second))
        other.optimizer.zero_grad()
        loss.backward()
        other.optimizer.step()

    return step_


@pytest.mark.parametrize(("cls", "distance"), [(CausIRL_CORAL, by_moments), (CausIRL_MMD, by_kernels)])
def test_equals_a_plain_loop(
    toy: SimpleNamespace, norm: str, optimizer: str, cls: type[Algorithm], distance: Callable[[Tensor, Tensor], Tensor]
) -> None:
    toy.agrees(toy.make(cls, norm=norm, optimizer=optimizer, mmd_gamma=2.0), reference(distance))


def test_each_cut_is_as_likely(toy: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of domains with 2 and 3 examples the first mixture takes 0 or 1 and 0, 1 or 2: together 0 to 3 of 5."""
    sizes: Counter[int] = Counter()

    def watch(sets: list[Tensor]) -> Tensor:
        sizes[len(sets[0])] += 1
        return sets[0].new_zeros(())

    monkeypatch.setattr(MODULE, "coral", watch)
    algorithm = toy.make(CausIRL_CORAL, domains=2)
    torch.manual_seed(0)
    draws = 3000
    for _ in range(draws):
        algorithm.update(toy.batches(0, sizes=(2, 3)))
    # Fewer than two examples are no mixture: sizes 0 (1/6) and 1 (1/3) are left out.
    assert set(sizes) == {2, 3}
    assert sizes[2] / draws == pytest.approx(1 / 3, abs=0.04)
    assert sizes[3] / draws == pytest.approx(1 / 6, abs=0.04)


def test_an_empty_mixture_has_no_penalty(toy: SimpleNamespace) -> None:
    """Minibatches of one example are never cut, so the first mixture is empty."""
    logged = toy.make(CausIRL_MMD).update(toy.batches(0, sizes=(1, 1, 1)))
    assert logged["penalty"].item() == 0


@pytest.mark.parametrize("cls", [CausIRL_CORAL, CausIRL_MMD])
def test_without_weight_they_are_erm(toy: SimpleNamespace, cls: type[Algorithm]) -> None:
    algorithm, erm = toy.make(cls, mmd_gamma=0.0), toy.make(ERM)
    for step in range(3):
        data = toy.batches(step, sizes=(4, 4, 4))
        algorithm.update(data)
        erm.update(data)
    for p, q in zip(algorithm.parameters(), erm.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-12)


@pytest.mark.parametrize("cls", [CausIRL_CORAL, CausIRL_MMD])
def test_resumes_exactly(toy: SimpleNamespace, optimizer: str, cls: type[Algorithm]) -> None:
    toy.resumes(cls, norm="live", optimizer=optimizer, dropout=0.3)
