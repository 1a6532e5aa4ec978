from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.distributions import Beta
from torch.nn import functional as F

from dgbench.algorithms.bang import BANG
from dgbench.algorithms.erm import ERM
from dgbench.core.errors import UserError
from dgbench.methods.batch import Batch

ALPHA, SMOOTHING = 0.4, 0.15


def reference(other: SimpleNamespace, batches: list[Batch], step: int) -> None:
    """By soft labels: the blend of two smoothed one-hot labels."""
    share = Beta(torch.tensor([ALPHA]), torch.tensor([ALPHA])).sample().item()
    x, y = torch.cat([b.x for b in batches]), torch.cat([b.y for b in batches])
    soft = F.one_hot(y, 4) * (1 - SMOOTHING) + SMOOTHING / 4
    partner = torch.randperm(len(y))
    logits = other.network(share * x + (1 - share) * x[partner])
    labels = share * soft + (1 - share) * soft[partner]
    loss = -(labels * logits.log_softmax(1)).sum(1).mean()
    other.optimizer.zero_grad()
    loss.backward()
    other.optimizer.step()


@pytest.mark.parametrize("domains", [1, 3])
def test_equals_soft_labels_on_blends(toy: SimpleNamespace, norm: str, optimizer: str, domains: int) -> None:
    options = {"norm": norm, "optimizer": optimizer, "domains": domains}
    toy.agrees(toy.make(BANG, **options, mixup_alpha=ALPHA, label_smoothing=SMOOTHING), reference)


def test_examples_are_paired_across_domains(toy: SimpleNamespace) -> None:
    """Inputs are 0, 1 and 10 in three domains: some blend is of two of them."""
    algorithm = toy.make(BANG, mixup_alpha=ALPHA)
    seen: list[torch.Tensor] = []
    algorithm.network.featurizer.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    values = (0.0, 1.0, 10.0)
    data = [b._replace(x=torch.full_like(b.x, v)) for b, v in zip(toy.batches(0), values, strict=True)]
    torch.manual_seed(3)
    algorithm.update(data)
    (x,) = seen
    torch.manual_seed(3)
    share = Beta(torch.tensor([ALPHA]), torch.tensor([ALPHA])).sample().item()
    blends = {share * a + (1 - share) * b for a in values for b in values}
    found = set(x[:, 0].tolist())
    assert found <= blends
    assert found - set(values)


def test_without_mixup_it_smooths_labels(toy: SimpleNamespace) -> None:
    def smoothed(other: SimpleNamespace, batches: list[Batch], step: int) -> None:
        x, y = torch.cat([b.x for b in batches]), torch.cat([b.y for b in batches])
        other.optimizer.zero_grad()
        F.cross_entropy(other.network(x), y, label_smoothing=SMOOTHING).backward()
        other.optimizer.step()

    toy.agrees(toy.make(BANG, mixup_alpha=0.0, label_smoothing=SMOOTHING), smoothed)


def test_without_both_it_is_erm(toy: SimpleNamespace, norm: str) -> None:
    ours, erm = toy.make(BANG, norm=norm, mixup_alpha=0.0, label_smoothing=0.0), toy.make(ERM, norm=norm)
    for step in range(3):
        toy.take(ours, step)
        toy.take(erm, step)
    assert all(torch.equal(p, q) for p, q in zip(ours.state_dict().values(), erm.state_dict().values(), strict=True))


@pytest.mark.parametrize("values", [{"mixup_alpha": -0.1}, {"label_smoothing": 1.0}, {"label_smoothing": -0.1}])
def test_impossible_values_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(values))):
        BANG.Hparams(**values)


def test_resumes_exactly(toy: SimpleNamespace, optimizer: str) -> None:
    toy.resumes(BANG, norm="live", optimizer=optimizer, dropout=0.3)
