from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical

from dgbench.adaptation.eata import EATA, _draw
from dgbench.core.errors import UserError
from dgbench.networks.network import Network
from tests.adaptation.toys import CLASSES, changed, in_batches, network, norms, parameters, stream

pytestmark = pytest.mark.usefixtures("float64")
LOOSE = {"margin": 0.8, "d_margin": 0.9, "lr": 0.05}
"""Limits of which some inputs of each batch stay below."""


def eata(model: Network | None = None, source: Sequence[Tensor] = (), **hparams: Any) -> EATA:
    adapter = EATA(model or network(), EATA.Hparams(**{**LOOSE, **hparams}))
    if source:
        adapter.begin((x, torch.zeros(len(x))) for x in source)
    return adapter


def of_batches(model: Network) -> tuple[Network, list[Tensor]]:
    """A reference with batch statistics, and its scales and shifts."""
    reference = in_batches(copy.deepcopy(model))
    return reference, [p for norm in norms(reference) for p in norm.parameters()]


def fisher(model: Network, batches: Sequence[Tensor]) -> list[Tensor]:
    """The published measure, from batches."""
    reference, learning = of_batches(model)
    found = [torch.zeros_like(p) for p in learning]
    for x in batches:
        logits = reference(x)
        loss = nn.functional.cross_entropy(logits, logits.argmax(1))
        reference.zero_grad()
        loss.backward()
        for total, p in zip(found, learning, strict=True):
            assert p.grad is not None
            total += p.grad**2 / len(batches)
    return found


def loop(model: Network, xs: Sequence[Tensor], weights: Sequence[Tensor], alpha: float) -> tuple[list[Tensor], int]:
    """The published procedure, input by input; also how many inputs taught."""
    reference, learning = of_batches(model)
    start = [p.detach().clone() for p in learning]
    optimizer = torch.optim.SGD(learning, lr=LOOSE["lr"], momentum=0.9)
    said, mean, limit, taught = [], None, LOOSE["margin"] * math.log(CLASSES), 0
    for x in xs:
        logits = reference(x)
        said.append(logits.detach())
        terms, used = [], []
        for z in logits:
            entropy, p = Categorical(logits=z).entropy(), z.detach().softmax(0)
            if entropy >= limit:
                continue
            if mean is not None and abs((mean @ p) / (mean.norm() * p.norm())) >= LOOSE["d_margin"]:
                continue
            terms.append(math.exp(limit - entropy.item()) * entropy)
            used.append(p)
        if not used:
            continue
        taught += len(used)
        new = torch.stack(used).mean(0)
        mean = new if mean is None else 0.9 * mean + 0.1 * new
        loss = torch.stack(terms).mean()
        for f, p, p0 in zip(weights, learning, start, strict=True):
            loss = loss + alpha * (f * (p - p0) ** 2).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return said, taught


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("alpha", [0.0, 50.0])
def test_equals_a_plain_loop(norm: str, alpha: float) -> None:
    model, source = network(norm, dropout=0.5), stream((64,), seed=2)
    model.eval()
    weights = fisher(model, source)
    xs = stream((8, 8, 8, 8, 3))
    expected, taught = loop(model, xs, weights, alpha)
    assert 4 < taught < 30, "some inputs are left out"
    adapter = eata(copy.deepcopy(model), source, fisher_alpha=alpha)
    for x, wanted in zip(xs, expected, strict=True):
        got = adapter.predict(x)
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-10)
        assert not got.requires_grad


def test_a_large_weight_of_the_distance_keeps_the_trained_weights() -> None:
    source, distances = stream((64,), seed=2), []
    for alpha in (0.0, 1e4):
        adapter = eata(network(), source, fisher_alpha=alpha, lr=0.01, margin=1.1, d_margin=1.1)
        for x in stream():
            adapter.predict(x)
        distances.append(adapter._distance().item())
    assert distances[1] < 0.7 * distances[0]


def test_unreliable_and_redundant_inputs_change_nothing() -> None:
    for hparams in ({"margin": 0.0}, {"d_margin": 0.0}):
        model = network()
        adapter = eata(model, **hparams)
        before = parameters(model)
        adapter.predict(stream()[0])
        assert bool(changed(model, before)) == ("d_margin" in hparams), "the first batch is compared with nothing"
        before = parameters(model)
        for x in stream()[1:]:
            adapter.predict(x)
        assert not changed(model, before)


def test_the_fisher_information_is_of_a_random_sample_of_all_domains() -> None:
    torch.manual_seed(0)
    source = [torch.full((50, 2), float(i)) for i in range(4)]
    counts = torch.stack([_drawn(source, 20) for _ in range(200)]).mean(0)
    assert ((counts - 5).abs() < 0.7).all()
    assert [len(_draw(((x, x) for x in source), size)) for size in (1, 200, 500)] == [1, 200, 200]


def _drawn(source: Sequence[Tensor], size: int) -> Tensor:
    """How many inputs of each domain are drawn."""
    labels = torch.stack(_draw(((x, x) for x in source), size))[:, 0].long()
    return labels.bincount(minlength=len(source)).double()


def test_single_inputs_are_learned_from() -> None:
    adapter = eata(margin=1.1, d_margin=1.1)
    before = parameters(adapter.network)
    for x in stream((1, 1, 1)):
        assert adapter.predict(x).isfinite().all()
    assert changed(adapter.network, before)


def test_refuses_a_network_without_norms() -> None:
    with pytest.raises(UserError, match="EATA learns the scales and shifts of normalization layers"):
        eata(network("none"))
