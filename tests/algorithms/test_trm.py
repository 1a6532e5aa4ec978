from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dgbench.algorithms.trm import TRM, _Regression
from dgbench.core.errors import UserError
from dgbench.core.space import space_of
from dgbench.methods.batch import Batch

ITERS, LAMBDA, ETA = 1, 0.3, 0.5
OPTIONS = {"iters": ITERS, "cos_lambda": LAMBDA, "groupdro_eta": ETA}


def inverse_hessian_product(v: Tensor, head: nn.Linear, x: Tensor, y: Tensor) -> Tensor:
    """The Neumann series by double backward."""
    total = v
    for _ in range(10):
        (g,) = torch.autograd.grad(F.cross_entropy(head(x), y), head.weight, create_graph=True)
        (hv,) = torch.autograd.grad((g * v).sum(), head.weight)
        v = v - hv
        total = total + v
        if total.abs().max() > 10:
            break
    return total


class Reference:
    """Heads as modules with optimizers of their own, pairs of domains in loops."""

    def __init__(self, algorithm: TRM) -> None:
        self.heads = []
        for weight, bias in zip(algorithm.weights, algorithm.biases, strict=True):
            head = nn.Linear(weight.shape[1], weight.shape[0])
            head.load_state_dict({"weight": weight.clone(), "bias": bias.clone()})
            self.heads.append(head)
        self.alpha = [[float(p != q) for p in range(len(self.heads))] for q in range(len(self.heads))]
        self.balanced = algorithm.setting.class_balanced

    def transfer(self, features: list[Tensor], labels: list[Tensor]) -> Tensor:
        total = torch.zeros(())
        for q, head in enumerate(self.heads):
            norm = sum(self.alpha[q])
            self.alpha[q] = [a / norm for a in self.alpha[q]]
            optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
            for _ in range(30):
                optimizer.zero_grad()
                F.cross_entropy(head(features[q].detach()), labels[q]).backward()
                optimizer.step()
            parts = {
                p: self.alpha[q][p] * F.cross_entropy(head(f), labels[p]) for p, f in enumerate(features) if p != q
            }
            others = sum(parts.values())
            (v,) = torch.autograd.grad(others, head.weight, retain_graph=True)
            v = inverse_hessian_product(v, head, features[q].detach(), labels[q])
            (own,) = torch.autograd.grad(F.cross_entropy(head(features[q]), labels[q]), head.weight, create_graph=True)
            total = total + others - LAMBDA * (v * own).sum()
            for p, part in parts.items():
                self.alpha[q][p] *= (ETA * part).exp().item()
        return total / len(self.heads)

    def __call__(self, other: SimpleNamespace, batches: list[Batch], step: int) -> None:
        sizes = [len(b.y) for b in batches]
        features = other.network.featurizer(torch.cat([b.x for b in batches]))
        loss = F.cross_entropy(other.network.classifier(features), torch.cat([b.y for b in batches]))
        if step >= ITERS:
            if self.balanced:
                for head in self.heads:
                    head.weight.data = other.network.classifier.weight.detach().clone()
            loss = loss + self.transfer(list(torch.split(features, sizes)), [b.y for b in batches])
        other.optimizer.zero_grad()
        loss.backward()
        other.optimizer.step()


def test_equals_a_plain_loop(toy: SimpleNamespace, norm: str, optimizer: str) -> None:
    algorithm = toy.make(TRM, norm=norm, optimizer=optimizer, **OPTIONS)
    reference = Reference(algorithm)
    toy.agrees(algorithm, reference, steps=4)
    for q, head in enumerate(reference.heads):
        torch.testing.assert_close(algorithm.weights[q], head.weight.detach(), rtol=0, atol=1e-12)
        torch.testing.assert_close(algorithm.biases[q], head.bias.detach(), rtol=0, atol=1e-12)
        torch.testing.assert_close(algorithm.alpha[q], torch.tensor(reference.alpha[q]), rtol=0, atol=1e-12)


def test_equals_a_plain_loop_with_balanced_classes(toy: SimpleNamespace) -> None:
    algorithm = toy.make(TRM, **OPTIONS)
    algorithm.setting = dataclasses.replace(algorithm.setting, class_balanced=True)
    toy.agrees(algorithm, Reference(algorithm), steps=3)


def data(scale: Callable[[int], float]) -> tuple[_Regression, Tensor, Tensor, list[Tensor], list[Tensor]]:
    features = [torch.randn(n, 3) * scale(i) for i, n in enumerate((6, 4, 9))]
    labels = [torch.randint(4, (len(f),)) for f in features]
    return _Regression(features, labels, 4), torch.randn(3, 4, 3) / 3, torch.randn(3, 4), features, labels


def test_the_series_is_the_inverse_hessian_where_it_converges_and_is_cut_off_where_not() -> None:
    regression, weights, biases, features, labels = data(lambda i: (0.5, 6.0, 1.0)[i])
    v = torch.randn(3, 4, 3)
    got = regression.inverse_hessian(v, weights, biases)
    lengths = []
    for q in range(3):
        head = nn.Linear(3, 4)
        head.load_state_dict({"weight": weights[q], "bias": biases[q]})
        expected = inverse_hessian_product(v[q], head, features[q], labels[q])
        torch.testing.assert_close(got[q], expected, rtol=0, atol=1e-10)
        lengths.append(expected.abs().max().item())
    assert lengths[1] > 10  # This domain's has diverged, the others' have not.


def test_a_series_that_overflows_stays_finite() -> None:
    regression, weights, biases, *_ = data(lambda _: 1e60)
    assert regression.inverse_hessian(torch.randn(3, 4, 3), weights, 0 * biases).isfinite().all()


def test_before_its_time_it_is_erm(toy: SimpleNamespace) -> None:
    algorithm = toy.make(TRM, iters=5)
    before = algorithm.weights.clone()
    assert "transfer" not in toy.take(algorithm, 0)
    assert torch.equal(algorithm.weights, before)


def test_space_is_domainbeds() -> None:
    by_name = {spec.name: (spec.default, str(spec.draw)) for spec in space_of(TRM.Hparams)}
    assert by_name["cos_lambda"] == (1e-4, "10^U(-5, 0)")
    assert by_name["iters"] == (200, "int 10^U(0, 4)")
    assert by_name["groupdro_eta"] == (1e-2, "10^U(-3, -1)")


def test_a_nonlinear_classifier_is_refused(toy: SimpleNamespace) -> None:
    with pytest.raises(UserError, match="needs a linear classifier"):
        toy.make(TRM, nonlinear=True)


@pytest.mark.parametrize("iters", [1, 3, 5])
def test_resumes_exactly(toy: SimpleNamespace, optimizer: str, iters: int) -> None:
    toy.resumes(TRM, norm="live", optimizer=optimizer, dropout=0.3, **{**OPTIONS, "iters": iters})
