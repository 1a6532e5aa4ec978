from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from dgbench.adaptation.t3a import T3A
from dgbench.core.errors import UserError
from dgbench.core.setting import setting
from dgbench.networks.network import Network

FEATURES, CLASSES = 6, 4


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def network(*, dropout: float = 0.0, nonlinear: bool = False, seed: int = 0) -> Network:
    torch.manual_seed(seed)
    return Network(
        nn.Sequential(nn.Linear(5, FEATURES), nn.BatchNorm1d(FEATURES), nn.Tanh(), nn.Dropout(dropout)),
        FEATURES,
        CLASSES,
        setting(batch_norm="live", nonlinear_classifier=nonlinear),
        dropout,
    ).train()


def identity(scale: float = 1.0) -> Network:
    """Features are the inputs, and class k's row is `scale` times (k + 1) e_k."""
    model = Network(nn.Identity(), CLASSES, CLASSES, setting())
    with torch.no_grad():
        model.classifier.weight.copy_(torch.diag(scale * torch.arange(1.0, CLASSES + 1)))
        model.classifier.bias.zero_()
    return model


class Naive:
    """The published procedure with lists: one (support, class, entropy) each, re-sorted and cut at every batch."""

    def __init__(self, model: Network, keep: int, compat: bool) -> None:
        self.model, self.keep, self.compat = model.eval(), keep, compat
        self.bank: list[tuple[Tensor, int, float]] = []
        self.add(model.classifier.weight.detach())

    def add(self, rows: Tensor) -> None:
        for row in rows:
            p = self.model.classifier(row).softmax(0).detach()
            self.bank.append((row, int(p.argmax()), -sum(float(q) * float(q.log()) for q in p)))

    def predict(self, x: Tensor) -> Tensor:
        z = self.model.features(x).detach()
        self.add(z)
        kept, columns = [], []
        for k in range(CLASSES):
            mine = sorted((s for s in self.bank if s[1] == k), key=lambda s: s[2])
            if self.keep != -1:
                mine = mine[: self.keep]
            elif self.compat:
                mine = mine[:-1]
            kept += mine
            total = sum((s[0] / s[0].norm() for s in mine), torch.zeros(FEATURES))
            columns.append(total / total.norm() if mine else total)
        self.bank = kept
        return torch.stack([torch.stack([(row * c).sum() for c in columns]) for row in z])


def stream(n: int = 7, seed: int = 1) -> list[Tensor]:
    torch.manual_seed(seed)
    return [torch.randn(size, 5) * 2 for size in (*[8] * n, 3)]


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("keep", "compat"), [(1, False), (5, False), (20, True), (-1, False), (-1, True)])
def test_equals_plain_loops_over_a_stream(seed: int, keep: int, compat: bool) -> None:
    model = network(seed=seed, dropout=0.5)
    with torch.no_grad():
        model.classifier.weight.mul_(3)
    naive = Naive(copy.deepcopy(model), keep, compat)
    adapter = T3A(model, T3A.Hparams(filter_K=keep, compat=compat))
    for x in stream():
        torch.testing.assert_close(adapter.predict(x), naive.predict(x), rtol=0, atol=1e-12)


def test_before_any_input_prototypes_are_unit_rows_without_bias() -> None:
    """On an empty batch nothing is learned; rows whose class is their own give a cosine classifier."""
    model = identity(scale=5.0)
    with torch.no_grad():
        model.classifier.bias.copy_(torch.tensor([0.1, 0.2, 0.3, 0.4]))
    adapter = T3A(model, T3A.Hparams())
    assert adapter.predict(torch.zeros(0, CLASSES)).shape == (0, CLASSES)
    x = torch.tensor([[0.3, 2.0, 0.1, 0.0]])
    adapter.hparams = T3A.Hparams(filter_K=1)  # The row of class 1 (5 * 2 e_1) is surer than the input.
    torch.testing.assert_close(adapter.predict(x), x, rtol=0, atol=1e-12)


def test_only_the_most_confident_support_stays() -> None:
    adapter = T3A(identity(), T3A.Hparams(filter_K=1))
    sure, unsure = torch.tensor([[9.0, 3.0, 0.0, 0.0]]), torch.tensor([[0.5, 0.4, 0.0, 0.0]])
    adapter.predict(unsure)
    logits = adapter.predict(sure)
    assert logits[0, 0].item() == pytest.approx(sure.norm().item(), abs=1e-12)
    assert adapter.predict(unsure)[0, 0].item() == pytest.approx((unsure @ sure.T / sure.norm()).item(), abs=1e-12)


def test_the_batch_is_learned_before_it_is_predicted() -> None:
    x = torch.tensor([[9.0, 3.0, 0.0, 0.0]])
    got = T3A(identity(), T3A.Hparams(filter_K=-1)).predict(x)[0, 0].item()
    prototype = torch.nn.functional.normalize(torch.tensor([1.0, 0, 0, 0]) + x[0] / x.norm(), dim=0)
    assert got == pytest.approx((x[0] @ prototype).item(), abs=1e-12)


def test_order_matters() -> None:
    xs = torch.cat(stream())
    results = []
    for order in (torch.arange(len(xs)), torch.arange(len(xs)).flip(0)):
        adapter = T3A(network(), T3A.Hparams(filter_K=5))
        out = torch.cat([adapter.predict(chunk) for chunk in xs[order].split(adapter.batch_size)])
        results.append(out[order.argsort()])
    assert (results[0] - results[1]).abs().max() > 1e-3


def test_a_class_without_supports_has_logit_0() -> None:
    model = identity()
    with torch.no_grad():
        model.classifier.bias[3] = -100.0
    logits = T3A(model, T3A.Hparams(filter_K=5)).predict(torch.rand(6, CLASSES))
    assert torch.equal(logits[:, 3], torch.zeros(6))
    assert (logits[:, :3] != 0).all()


def test_minus_one_keeps_all_but_in_compat_drops_one_a_class_at_every_batch() -> None:
    xs, empty = stream(3), torch.zeros(0, 5)
    fine, quirk = (T3A(network(), T3A.Hparams(filter_K=-1, compat=compat)) for compat in (False, True))
    for x in xs:
        fine.predict(x)
        quirk.predict(x)
    assert len(fine._supports) == CLASSES + sum(len(x) for x in xs)
    before, classes = len(quirk._supports), len(quirk._labels.unique())
    quirk.predict(empty)
    assert len(quirk._supports) == before - classes


def test_two_adapters_of_one_network_share_nothing() -> None:
    model = network()
    first, second = T3A(model, T3A.Hparams()), T3A(model, T3A.Hparams())
    for x in stream():
        first.predict(x)
    weight = model.classifier.weight.detach().clone()
    expected = T3A(model, T3A.Hparams()).predict(stream()[0])
    assert torch.equal(second.predict(stream()[0]), expected)
    assert torch.equal(model.classifier.weight, weight)
    assert not expected.requires_grad


def test_refuses_what_it_cannot_do() -> None:
    with pytest.raises(UserError, match="train with nonlinear_classifier off"):
        T3A(network(nonlinear=True), T3A.Hparams())
    with pytest.raises(UserError, match="filter_K must be at least 1, or -1 for all, not 0"):
        T3A.Hparams(filter_K=0)
