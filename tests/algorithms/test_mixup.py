from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.distributions import Beta
from torch.nn import functional as F

from dgbench.algorithms.mixup import Mixup
from dgbench.core.errors import UserError
from dgbench.methods.batch import Batch

ALPHA = 0.4


def reference(other: SimpleNamespace, batches: list[Batch], step: int) -> None:
    count = len(batches)
    order = torch.randperm(count).tolist()
    shares = Beta(torch.tensor([ALPHA] * count), torch.tensor([ALPHA] * count)).sample()
    loss = 0
    for k in range(count):
        a, b, share = batches[order[k]], batches[order[(k + 1) % count]], shares[k]
        n = min(len(a.y), len(b.y))
        logits = other.network(share * a.x[:n] + (1 - share) * b.x[:n])
        loss = loss + share * F.cross_entropy(logits, a.y[:n]) + (1 - share) * F.cross_entropy(logits, b.y[:n])
    other.optimizer.zero_grad()
    (loss / count).backward()
    other.optimizer.step()


@pytest.mark.parametrize("domains", [2, 3])
def test_equals_a_plain_loop(toy: SimpleNamespace, norm: str, optimizer: str, domains: int) -> None:
    toy.agrees(toy.make(Mixup, norm=norm, optimizer=optimizer, domains=domains, mixup_alpha=ALPHA), reference)


def test_blends_lie_between_two_domains(toy: SimpleNamespace) -> None:
    """Inputs are 0, 1 and 10 in three domains: what the network sees is a blend of two, and each domain comes twice."""
    algorithm = toy.make(Mixup, mixup_alpha=ALPHA)
    seen: list[torch.Tensor] = []
    algorithm.network.featurizer.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    values = (0.0, 1.0, 10.0)
    data = [b._replace(x=torch.full_like(b.x, v)) for b, v in zip(toy.batches(0), values, strict=True)]
    torch.manual_seed(3)
    algorithm.update(data)
    torch.manual_seed(3)
    order, shares = torch.randperm(3).tolist(), Beta(torch.full((3,), ALPHA), torch.full((3,), ALPHA)).sample()
    expected = [shares[k] * values[order[k]] + (1 - shares[k]) * values[order[(k + 1) % 3]] for k in range(3)]
    found = torch.cat(seen)[:, 0]
    assert set(found.tolist()) == {e.item() for e in expected}


def test_shares_have_the_beta_distribution(toy: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of inputs 0 and 1 a blend is its share; mean 1/2, variance 1 / (4 (2 alpha + 1)), finite at a small alpha."""
    algorithm = toy.make(Mixup, mixup_alpha=0.1, domains=2)
    shares: list[torch.Tensor] = []

    def watch(blends: list[Batch]) -> list[torch.Tensor]:
        shares.extend(b.x[0, 0] for b in blends)
        return [b.x.new_ones(1, 8) for b in blends]

    monkeypatch.setattr(algorithm, "domain_features", watch)
    data = [Batch(torch.full((1, 6), v), torch.tensor([0]), torch.tensor([0]), i) for i, v in enumerate((0.0, 1.0))]
    torch.manual_seed(0)
    for _ in range(500):
        algorithm.update(data)
    found = torch.stack(shares)
    assert found.isfinite().all()
    assert found.mean().item() == pytest.approx(0.5, abs=0.05)
    assert found.var().item() == pytest.approx(1 / (4 * 1.2), abs=0.02)


def test_alpha_must_be_positive() -> None:
    with pytest.raises(UserError, match="mixup_alpha must be above 0, not 0"):
        Mixup.Hparams(mixup_alpha=0.0)


def test_resumes_exactly(toy: SimpleNamespace, optimizer: str) -> None:
    toy.resumes(Mixup, norm="live", optimizer=optimizer, dropout=0.3)
