from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from dgbench.adaptation.lame import LAME
from tests.adaptation.toys import network, parameters, stream

pytestmark = pytest.mark.usefixtures("float64")


def lame(**hparams: Any) -> LAME:
    return LAME(network(), LAME.Hparams(**hparams))


def affinities(z: Tensor, kind: str, k: int) -> list[list[float]]:
    """Between all pairs of features, written out."""
    n = len(z)
    distance = [[(z[i] - z[j]).norm().item() for j in range(n)] for i in range(n)]
    if kind == "linear":
        return [[(z[i] * z[j]).sum().item() for j in range(n)] for i in range(n)]
    if kind == "rbf":
        sigma = sum(sorted(row)[min(k, n) - 1] for row in distance) / n
        return [[math.exp(-(d**2) / (2 * sigma**2)) for d in row] for row in distance]
    near = [sorted((j for j in range(n) if j != i), key=lambda j, i=i: distance[i][j])[:k] for i in range(n)]  # type: ignore[misc]
    return [[float(j in near[i]) for j in range(n)] for i in range(n)]


def loop(x: Tensor, kind: str, k: int, symmetric: bool) -> Tensor:
    """The published procedure, input by input."""
    model = network().eval()
    with torch.no_grad():
        features = model.features(x)
        p = model.classifier(features).softmax(1)
    w = affinities(features / features.norm(dim=1, keepdim=True), kind, k)
    if symmetric:
        w = [[(w[i][j] + w[j][i]) / 2 for j in range(len(w))] for i in range(len(w))]
    q, before = p, math.inf
    for step in range(100):
        pull = [sum(w[i][j] * q[j] for j in range(len(x))) for i in range(len(x))]
        q = torch.stack([((p[i] + 1e-10).log() + pull[i]).softmax(0) for i in range(len(x))])
        energy = sum(float((q[i] * (q[i].log() - (p[i] + 1e-10).log() - pull[i])).sum()) for i in range(len(x)))
        if step > 1 and abs(energy - before) <= 1e-8 * abs(before):
            break
        before = energy
    return q


@pytest.mark.parametrize(
    ("kind", "k", "symmetric"), [("knn", 3, False), ("knn", 5, True), ("rbf", 3, False), ("linear", 5, False)]
)
def test_equals_a_plain_loop(kind: str, k: int, symmetric: bool) -> None:
    adapter = lame(affinity=kind, k=k, symmetric=symmetric)
    for x in stream((8, 5)):
        expected = loop(x, kind, k, symmetric)
        torch.testing.assert_close(adapter.predict(x).exp(), expected, rtol=0, atol=1e-9)
        plain = network().eval()(x).softmax(1)
        assert (expected - plain).abs().max() > 1e-3, "it changes something"


def test_nothing_learns_and_batches_are_independent() -> None:
    adapter, xs = lame(), stream((8, 8))
    before = parameters(adapter.network)
    forward = [adapter.predict(x) for x in xs]
    backward = [adapter.predict(x) for x in reversed(xs)]
    assert all(torch.equal(a, b) for a, b in zip(forward, reversed(backward), strict=True))
    assert all(torch.equal(value, before[name]) for name, value in parameters(adapter.network).items())


@pytest.mark.parametrize("kind", ["knn", "rbf", "linear"])
def test_a_lone_input_is_predicted_as_without_it(kind: str) -> None:
    """The class stays; an input that is near itself only becomes surer."""
    (x,) = stream((1,))
    plain = network().eval()(x)
    found = lame(affinity=kind).predict(x)
    assert found.isfinite().all()
    assert torch.equal(found.argmax(1), plain.argmax(1))
    if kind == "knn":
        torch.testing.assert_close(found, plain.log_softmax(1), rtol=0, atol=1e-6)


def test_equal_inputs_are_neighbors_and_predicted_alike() -> None:
    (x,) = stream((2,))
    twice = x[[0, 0, 1, 1, 1]]
    for kind in ("knn", "rbf"):
        found = lame(affinity=kind, k=1).predict(twice)
        assert found.isfinite().all()
        torch.testing.assert_close(found[0], found[1])
