from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dgbench.adaptation.adanpc import AdaNPC
from dgbench.core.errors import UserError
from dgbench.core.setting import setting
from dgbench.networks.network import Network
from tests.adaptation.toys import CLASSES, changed, network, parameters, stream

pytestmark = pytest.mark.usefixtures("float64")

NEVER = 1.1


def plane() -> Network:
    """Features are the inputs, points of a plane."""
    return Network(nn.Identity(), 2, 3, setting())


def adanpc(model: Network, source: list[tuple[Tensor, Tensor]], **hparams: Any) -> AdaNPC:
    adapter = AdaNPC(model, AdaNPC.Hparams(**hparams))
    adapter.begin(iter(source))
    return adapter


def at(*degrees: float) -> Tensor:
    """Points in these directions, farther and farther away."""
    angles = torch.tensor(degrees).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], dim=1) * torch.arange(1.0, len(degrees) + 1)[:, None]


def three() -> list[tuple[Tensor, Tensor]]:
    """One example of each class, at 0, 30 and 90 degrees."""
    return [(at(0, 30), torch.tensor([0, 1])), (at(90), torch.tensor([2]))]


def test_scores_by_hand() -> None:
    """Of an input at 10 degrees the two nearest are those at 0 and 30: the weights are softmax(cos 10, cos 20) / T."""
    adapter = adanpc(plane(), three(), k=2, temperature=0.1, beta=NEVER)
    near, far = (math.exp(math.cos(math.radians(angle)) / 0.1) for angle in (10, 20))
    expected = [near / (near + far) + 1e-5, far / (near + far) + 1e-5, 1e-5]
    got = adapter.predict(at(10))[0]
    assert got.exp().tolist() == pytest.approx(expected, rel=1e-9)
    alone = adanpc(plane(), three(), k=1, beta=NEVER).predict(at(10))[0]
    assert alone.exp().tolist() == pytest.approx([1.0, 1e-5, 1e-5], rel=1e-12)


def test_the_votes_of_one_class_add_up_and_a_small_memory_votes_as_a_whole() -> None:
    source = [(at(0, 20, 90), torch.tensor([1, 1, 0]))]
    got = adanpc(plane(), source, k=50, temperature=0.5, beta=NEVER).predict(at(10))[0].exp()
    same, other = 2 * math.exp(math.cos(math.radians(10)) / 0.5), math.exp(math.cos(math.radians(80)) / 0.5)
    assert got.tolist() == pytest.approx([other / (same + other) + 1e-5, same / (same + other) + 1e-5, 1e-5], rel=1e-9)


def test_what_is_sure_joins_the_memory_after_it_is_predicted() -> None:
    adapter = adanpc(plane(), three(), k=1, beta=0.5)
    assert adapter.predict(at(14)).argmax().item() == 0
    assert adapter.predict(at(20)).argmax().item() == 0, "the input at 14 degrees is nearer than the one at 30"
    assert adanpc(plane(), three(), k=1, beta=0.5).predict(at(20)).argmax().item() == 1
    together = adanpc(plane(), three(), k=1, beta=0.5).predict(at(14, 20))
    assert together.argmax(dim=1).tolist() == [0, 1], "the inputs of a batch don't see each other"


@pytest.mark.parametrize(("beta", "joins"), [(0.0, 2), (0.5, 2), (0.75, 1), (NEVER, 0)])
def test_sure_is_a_matter_of_the_scores_themselves(beta: float, joins: int) -> None:
    """The largest scores are 0.79 and 0.52; the softmax of the scores has 0.50 and 0.42, by which none is sure."""
    adapter = adanpc(plane(), three(), k=2, temperature=0.1, beta=beta)
    scores = adapter.predict(at(0, 14)).exp()
    assert scores.amax(dim=1).tolist() == pytest.approx([0.792, 0.523], abs=1e-3)
    assert scores.softmax(dim=1).amax().item() < 0.5
    assert len(adapter._joined) == len(adapter._labels) - 3 == joins


class Naive:
    """The procedure with lists of (feature, label)."""

    def __init__(self, model: Network, values: AdaNPC.Hparams) -> None:
        self.model, self.values = model.eval(), values
        self.memory: list[tuple[Tensor, int]] = []

    def add(self, x: Tensor, y: int) -> None:
        self.memory.append((self.model.features(x[None])[0].detach(), y))

    def predict(self, xs: Tensor) -> Tensor:
        rows, sure = [], []
        for x in xs:
            z = self.model.features(x[None])[0].detach()
            near = sorted(((torch.cosine_similarity(z, m, dim=0).item(), y) for m, y in self.memory), reverse=True)
            near = near[: self.values.k]
            weights = [math.exp(cosine / self.values.temperature) for cosine, _ in near]
            row = [0.0] * CLASSES
            for weight, (_, y) in zip(weights, near, strict=True):
                row[y] += weight / sum(weights)
            row = [min(1.0, share + 1e-5) for share in row]
            rows.append([math.log(share) for share in row])
            if max(row) >= self.values.beta:
                sure.append((x, row.index(max(row))))
        for x, y in sure:
            self.add(x, y)
        return torch.tensor(rows)


@pytest.mark.parametrize(("beta", "k", "temperature"), [(0.0, 5, 0.1), (0.5, 3, 0.01), (0.6, 200, 0.05), (NEVER, 1, 1)])
def test_equals_plain_loops_over_a_stream(beta: float, k: int, temperature: float) -> None:
    model = network(dropout=0.5)
    naive = Naive(copy.deepcopy(model), AdaNPC.Hparams(beta=beta, k=k, temperature=temperature))
    source = [(x, torch.randint(CLASSES, (len(x),))) for x in stream((6, 6, 2), seed=9)]
    before = parameters(model)
    adapter = adanpc(model, source, beta=beta, k=k, temperature=temperature)
    for x, y in ((x, int(y)) for xs, ys in source for x, y in zip(xs, ys, strict=True)):
        naive.add(x, y)
    for x in stream():
        got = adapter.predict(x)
        torch.testing.assert_close(got, naive.predict(x), rtol=0, atol=1e-10)
        assert not got.requires_grad
    assert len(adapter._labels) == len(naive.memory)
    assert not changed(model, before)


def test_every_class_has_a_score_though_no_example_has_the_last() -> None:
    assert adanpc(plane(), three()[:1], beta=NEVER).predict(at(5, 50)).shape == (2, 3)


def test_the_source_is_read_once() -> None:
    read = []

    def source() -> Iterator[tuple[Tensor, Tensor]]:
        for batch in three():
            read.append(len(batch[1]))
            yield batch

    adapter = AdaNPC(plane(), AdaNPC.Hparams())
    adapter.begin(source())
    adapter.predict(at(1))
    adapter.predict(at(2))
    assert read == [2, 1]
    assert adapter.card.needs_source


def test_refuses_what_means_nothing() -> None:
    with pytest.raises(UserError) as error:
        AdaNPC.Hparams(beta=-0.1, k=0, temperature=0.0)
    for words in ("beta must be at least 0", "k must be at least 1, not 0", "temperature must be above 0, not 0.0"):
        assert words in str(error.value)
