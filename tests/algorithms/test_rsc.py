from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dgbench.algorithms.erm import ERM
from dgbench.algorithms.rsc import RSC, _mark_largest
from dgbench.core.errors import UserError
from dgbench.methods.batch import Batch

FEATURES, EXAMPLES = 0.3, 0.4


def reference(other: SimpleNamespace, batches: list[Batch], step: int) -> None:
    """One example at a time, thresholds by numpy."""
    network = other.network
    features = network.features(torch.cat([b.x for b in batches]))
    labels = torch.cat([b.y for b in batches])
    keep = torch.ones_like(features)
    changes = []
    for i, (row, y) in enumerate(zip(features, labels, strict=True)):
        leaf = row.detach().clone().requires_grad_()
        network.classifier(leaf)[y].backward()
        slopes = leaf.grad.numpy()
        keep[i] = torch.tensor(slopes < np.percentile(slopes, 100 * (1 - FEATURES))).to(keep.dtype)
        plain, muted = (network.classifier(z).softmax(0)[y].item() for z in (row, row * keep[i]))
        changes.append(plain - muted)
    for i, change in enumerate(changes):
        if change < np.percentile(changes, 100 * (1 - EXAMPLES)):
            keep[i] = 1
    other.optimizer.zero_grad()
    F.cross_entropy(network.classifier(features * keep), labels).backward()
    other.optimizer.step()


@pytest.mark.parametrize("nonlinear", [False, True])
def test_equals_a_plain_loop(toy: SimpleNamespace, norm: str, optimizer: str, nonlinear: bool) -> None:
    shares = {"rsc_f_drop_factor": FEATURES, "rsc_b_drop_factor": EXAMPLES}
    toy.agrees(toy.make(RSC, norm=norm, optimizer=optimizer, nonlinear=nonlinear, **shares), reference)


def test_mutes_the_features_that_favour_the_label(toy: SimpleNamespace) -> None:
    """With a linear classifier the derivatives are the label's weights: of these the largest three of eight go."""
    algorithm = toy.make(RSC, rsc_f_drop_factor=3 / 8, rsc_b_drop_factor=0.5)
    weight = torch.arange(32.0).view(4, 8) % 7
    algorithm.network.classifier.weight.data = weight
    labels = torch.tensor([0, 1, 2, 3])
    muted = algorithm._muted(torch.rand(4, 8, generator=torch.Generator().manual_seed(0)), labels)
    rows = muted.any(dim=1)
    assert rows.sum() == 2
    for row, y in zip(muted[rows], labels[rows], strict=True):
        assert set(weight[y][row].tolist()) == {4.0, 5.0, 6.0}


def test_largest() -> None:
    values = torch.tensor([[1.0, 4.0, 2.0, 3.0, 0.0]])
    assert _mark_largest(values, 0.0).tolist() == [[False] * 5]
    assert _mark_largest(values, 0.5).tolist() == [[False, True, True, True, False]]
    assert _mark_largest(values, 0.1).tolist() == [[False, True, False, False, False]]


@pytest.mark.parametrize("none_of", ["rsc_f_drop_factor", "rsc_b_drop_factor"])
def test_without_muting_it_is_erm(toy: SimpleNamespace, none_of: str) -> None:
    rsc, erm = toy.make(RSC, **{none_of: 0.0}), toy.make(ERM)
    for step in range(3):
        toy.take(rsc, step)
        toy.take(erm, step)
    for p, q in zip(rsc.parameters(), erm.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-14)


def test_a_frozen_featurizer_stays(toy: SimpleNamespace) -> None:
    algorithm = toy.make(RSC)
    algorithm.network.freeze("featurizer")
    algorithm.build_optimizers()
    before = algorithm.network.featurizer[0].weight.clone()
    toy.take(algorithm, 0)
    assert torch.equal(algorithm.network.featurizer[0].weight, before)


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_factors_are_shares(share: float) -> None:
    with pytest.raises(UserError, match=r"rsc_b_drop_factor must lie in \[0, 1\)"):
        RSC.Hparams(rsc_b_drop_factor=share)


def test_resumes_exactly(toy: SimpleNamespace, optimizer: str) -> None:
    toy.resumes(RSC, norm="live", optimizer=optimizer, dropout=0.3)
