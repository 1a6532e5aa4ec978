from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical

from dgbench.adaptation.bn_adapt import BNAdapt
from dgbench.adaptation.tent import TENT
from dgbench.core.errors import UserError
from dgbench.methods.average import NoHparams
from dgbench.networks.network import Network
from tests.adaptation.toys import changed, in_batches, network, norms, parameters, stream, vectors

pytestmark = pytest.mark.usefixtures("float64")


def tent(model: Network | None = None, **hparams: Any) -> TENT:
    return TENT(model or network(), TENT.Hparams(**{"lr": 0.05, **hparams}))


def outputs(adapter: TENT | BNAdapt, xs: list[Tensor]) -> list[Tensor]:
    return [adapter.predict(x) for x in xs]


def equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def loop(model: Network, learning: list[nn.Parameter], xs: list[Tensor], steps: int, sgd: bool) -> list[Tensor]:
    """The published procedure, on a network that is already in the modes that it wants."""
    kind: Any = torch.optim.SGD if sgd else torch.optim.Adam
    optimizer = kind(learning, lr=0.05, **({"momentum": 0.9} if sgd else {}))
    said = []
    for x in xs:
        for _ in range(steps):
            logits = model(x)
            loss = torch.stack([Categorical(logits=z).entropy() for z in logits]).mean()
            model.zero_grad()
            loss.backward()
            optimizer.step()
        said.append(logits.detach())
    return said


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("frozen", [False, True])
def test_equals_a_plain_loop(optimizer: str, steps: int, frozen: bool) -> None:
    model = network(frozen=frozen, dropout=0.5)
    reference = in_batches(copy.deepcopy(model))
    learning = [p for norm in norms(reference) for p in norm.parameters()]
    expected = loop(reference, learning, stream(), steps, optimizer == "sgd")
    for got, wanted in zip(outputs(tent(model, optimizer=optimizer, steps=steps), stream()), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-11)
        assert not got.requires_grad


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("steps", [1, 3])
def test_without_a_learning_rate_it_is_bn_adapt(optimizer: str, steps: int) -> None:
    still = outputs(tent(lr=0.0, optimizer=optimizer, steps=steps), stream())
    assert equal(still, outputs(BNAdapt(network(), NoHparams()), stream()))


def test_the_first_batch_is_predicted_before_it_is_learned_from() -> None:
    one, three, plain = (
        outputs(adapter, stream()) for adapter in (tent(), tent(steps=3), BNAdapt(network(), NoHparams()))
    )
    assert torch.equal(one[0], plain[0])
    assert (three[0] - plain[0]).abs().max() > 1e-3
    assert (one[1] - plain[1]).abs().max() > 1e-3


def test_only_scales_and_shifts_of_batch_norm_learn() -> None:
    model = network()
    before = parameters(model)
    tent(model).predict(stream()[0])
    learned = {f"featurizer.{i}.{name}" for i in (1, 4) for name in ("weight", "bias")}
    assert changed(model, before) == learned
    assert {name for name, p in model.named_parameters() if p.grad is not None} == learned, "no gradient in vain"


def test_from_uniform_predictions_nothing_is_learned() -> None:
    model = network()
    with torch.no_grad():
        model.classifier.weight.copy_(model.classifier.weight[:1].expand_as(model.classifier.weight))
        model.classifier.bias.fill_(0.3)
    before = parameters(model)
    adapter = tent(model, optimizer="sgd", lr=1.0)
    for x in stream():
        adapter.predict(x)
    for name, p in model.named_parameters():
        assert (p - before[name]).abs().max() < 1e-13, name


def test_entropy_falls() -> None:
    adapter, (x, *_) = tent(optimizer="sgd"), stream()
    found = [Categorical(logits=adapter.predict(x)).entropy().mean().item() for _ in range(10)]
    assert all(later < earlier for earlier, later in pairwise(found))


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_episodic_depends_on_no_order(optimizer: str) -> None:
    xs = stream((8, 8, 8))
    forward = outputs(tent(episodic=True, steps=3, optimizer=optimizer), xs)
    backward = outputs(tent(episodic=True, steps=3, optimizer=optimizer), xs[::-1])[::-1]
    assert equal(forward, backward)
    online = outputs(tent(steps=3, optimizer=optimizer), xs)
    assert torch.equal(online[0], forward[0])
    assert not torch.equal(online[1], forward[1])


def test_a_lone_last_input_is_normalised_with_the_batch_before_and_alone_learned_from() -> None:
    before, lone, after = stream((6, 1, 6), shape=(5,))
    adapter, model = tent(vectors(), optimizer="sgd"), in_batches(vectors())
    learning = [p for norm in norms(model) for p in norm.parameters()]
    optimizer = torch.optim.SGD(learning, lr=0.05, momentum=0.9)
    for x in (before, torch.cat([before, lone]), after):
        rows = x[-1:] if len(x) == 7 else x
        logits = model(x)[-len(rows) :]
        torch.testing.assert_close(adapter.predict(rows), logits, rtol=0, atol=1e-12)
        model.zero_grad()
        Categorical(logits=logits).entropy().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_the_head_can_learn_in_place_of_batch_norm(norm: str) -> None:
    model = network(norm)
    reference, before = copy.deepcopy(model).eval(), parameters(model)
    expected = loop(reference, list(reference.classifier.parameters()), stream(), 1, sgd=False)
    for got, wanted in zip(outputs(tent(model, adapts="head"), stream()), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-11)
    assert changed(model, before) == {"classifier.weight", "classifier.bias"}


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_a_batch_norm_before_the_head_can_learn(norm: str) -> None:
    model = network(norm)
    plain = copy.deepcopy(model).eval()
    reference, fresh = copy.deepcopy(model).eval(), nn.BatchNorm1d(8)
    reference.classifier = nn.Sequential(fresh, reference.classifier)
    expected = loop(reference, list(fresh.parameters()), stream(), 1, sgd=False)
    z = plain.features(stream()[0])
    first = plain.classifier((z - z.mean(0)) / (z.var(0, correction=0) + 1e-5).sqrt())
    got = outputs(tent(model, adapts="head_norm"), stream())
    torch.testing.assert_close(got[0], first, rtol=0, atol=1e-12)
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)


def test_refuses_what_it_cannot_do() -> None:
    with pytest.raises(UserError, match="this network has none: train another backbone, such as resnet18, or let"):
        tent(network("group"))
    model = network()
    model.classifier = nn.Identity()
    with pytest.raises(UserError, match="this network's classifier has nothing that learns"):
        tent(model, adapts="head")
    with pytest.raises(UserError) as error:
        TENT.Hparams(lr=-1.0, steps=0, optimizer="adamw", adapts="body")
    for words in ("lr must be at least 0", "steps must be at least 1", "'adamw'", "'body'"):
        assert words in str(error.value)
