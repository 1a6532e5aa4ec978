from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dgbench.algorithms.erm import ERM
from dgbench.algorithms.iga import IGA
from dgbench.methods.batch import Batch

WEIGHT = 0.5


def reference(other: SimpleNamespace, batches: list[Batch], step: int) -> None:
    parameters = list(other.network.parameters())
    losses = [F.cross_entropy(other.network(b.x), b.y) for b in batches]
    mean = sum(losses) / len(losses)
    gradients = [torch.autograd.grad(loss, parameters, create_graph=True) for loss in losses]
    mean_gradient = torch.autograd.grad(mean, parameters, create_graph=True)
    penalty = sum(((a - b) ** 2).sum() for g in gradients for a, b in zip(g, mean_gradient, strict=True))
    other.optimizer.zero_grad()
    (mean + WEIGHT * penalty).backward()
    other.optimizer.step()


@pytest.mark.parametrize("domains", [2, 3])
def test_equals_a_plain_loop(toy: SimpleNamespace, norm: str, optimizer: str, domains: int) -> None:
    toy.agrees(toy.make(IGA, norm=norm, optimizer=optimizer, domains=domains, penalty=WEIGHT), reference)


def test_equal_domains_have_no_penalty(toy: SimpleNamespace) -> None:
    data = toy.batches(0)[0]
    assert toy.make(IGA).update([data, data, data])["penalty"].item() == pytest.approx(0, abs=1e-25)


def test_a_domain_passes_back_through_its_own_rows_alone(toy: SimpleNamespace) -> None:
    algorithm = toy.make(IGA)
    seen: list[int] = []
    algorithm.network.featurizer.register_forward_hook(lambda _, __, out: seen.append(len(out)))
    toy.take(algorithm, 0)
    assert seen == [len(b.y) for b in toy.batches(0)]


def test_without_weight_it_is_erm(toy: SimpleNamespace) -> None:
    iga, erm = toy.make(IGA, penalty=0.0), toy.make(ERM)
    for step in range(3):
        data = toy.batches(step, sizes=(4, 4, 4))
        iga.update(data)
        erm.update(data)
    for p, q in zip(iga.parameters(), erm.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-12)


def test_a_frozen_featurizer_stays(toy: SimpleNamespace) -> None:
    algorithm = toy.make(IGA)
    algorithm.network.freeze("featurizer")
    algorithm.build_optimizers()
    before = algorithm.network.featurizer[0].weight.clone()
    toy.take(algorithm, 0)
    assert torch.equal(algorithm.network.featurizer[0].weight, before)


class Attention(nn.Module):
    """Six numbers as three tokens of two, then 8 features."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.out = nn.Linear(2, 6), nn.Linear(6, 8)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.tokens(x.view(len(x), 1, 3, 2)).chunk(3, dim=-1)
        attended: Tensor = self.out(F.scaled_dot_product_attention(q, k, v).flatten(1))
        return attended


def test_trains_what_has_attention(toy: SimpleNamespace) -> None:
    """Its fused kernels have no second derivative."""
    algorithm = toy.make(IGA, penalty=WEIGHT)
    algorithm.network.featurizer = Attention()
    algorithm.build_optimizers()
    toy.agrees(algorithm, _with_plain_attention)


def _with_plain_attention(other: SimpleNamespace, batches: list[Batch], step: int) -> None:
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        parameters = list(other.network.parameters())
        losses = [F.cross_entropy(other.network(b.x), b.y) for b in batches]
        gradients = [torch.autograd.grad(loss, parameters, create_graph=True) for loss in losses]
        means = [sum(column) / len(losses) for column in zip(*gradients, strict=True)]
        penalty = sum(((a - b) ** 2).sum() for g in gradients for a, b in zip(g, means, strict=True))
        other.optimizer.zero_grad()
        (sum(losses) / len(losses) + WEIGHT * penalty).backward()
        other.optimizer.step()


def test_resumes_exactly(toy: SimpleNamespace, optimizer: str) -> None:
    toy.resumes(IGA, norm="live", optimizer=optimizer, dropout=0.3)
