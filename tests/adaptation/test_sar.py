from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical

from dgbench.adaptation.sar import SAR
from dgbench.adaptation.tent import TENT
from dgbench.core.errors import UserError
from dgbench.core.setting import setting
from dgbench.networks.network import Network, build_network
from tests.adaptation.toys import CLASSES, changed, in_batches, network, norms, parameters, stream

pytestmark = pytest.mark.usefixtures("float64")

LR, RHO = 0.3, 0.1
FIRST_NORM = {"featurizer.1.weight", "featurizer.1.bias"}


def sar(model: Network | None = None, **hparams: Any) -> SAR:
    return SAR(model or network(), SAR.Hparams(**{"lr": LR, "rho": RHO, "recovery": 0.0, **hparams}))


def entropies(logits: Tensor) -> list[Tensor]:
    return [Categorical(logits=z).entropy() for z in logits]


class Naive:
    """The procedure with lists, and momentum by hand; `counts` says how many inputs were learned from in each batch."""

    def __init__(self, model: Network, learning: list[nn.Parameter], margin: float, recovery: float) -> None:
        self.model, self.learning = in_batches(model), learning
        self.margin, self.recovery = margin * math.log(CLASSES), recovery
        self.source = [p.detach().clone() for p in learning]
        self.momentum: list[Tensor] | None = None
        self.mean: float | None = None
        self.counts: list[int] = []
        self.resets: list[int] = []

    def predict(self, x: Tensor) -> Tensor:
        logits = self.model(x)
        chosen = [n for n, e in enumerate(entropies(logits)) if e < self.margin]
        self.counts.append(0)
        if not chosen:
            return logits.detach()
        loss = sum(entropies(logits)[n] for n in chosen) / len(chosen)
        g = torch.autograd.grad(loss, self.learning)
        length = math.sqrt(sum((d * d).sum().item() for d in g))
        here = [p.detach().clone() for p in self.learning]
        self.move([p + RHO * d / length for p, d in zip(here, g, strict=True)])
        uphill = entropies(self.model(x))
        kept = [n for n in chosen if uphill[n] < self.margin]
        second = sum(uphill[n] for n in kept) / len(kept) if kept else None
        d = torch.autograd.grad(second, self.learning) if second is not None else ()
        self.move(here)
        if second is not None:
            self.counts[-1] = len(kept)
            self.momentum = [0.9 * m + v for m, v in zip(self.momentum, d, strict=True)] if self.momentum else list(d)
            self.move([p - LR * m for p, m in zip(here, self.momentum, strict=True)])
            self.mean = second.item() if self.mean is None else 0.9 * self.mean + 0.1 * second.item()
            if self.mean < self.recovery:
                self.move(self.source)
                self.momentum = self.mean = None
                self.resets.append(len(self.counts) - 1)
        return logits.detach()

    @torch.no_grad()
    def move(self, to: list[Tensor]) -> None:
        for p, new in zip(self.learning, to, strict=True):
            p.copy_(new)


@pytest.mark.parametrize(("norm", "margin"), [("batch", 0.85), ("batch", 2.0), ("group", 0.62), ("group", 2.0)])
def test_equals_plain_loops(norm: str, margin: float) -> None:
    model = network(norm, dropout=0.5)
    other = copy.deepcopy(model)
    naive = Naive(other, list(norms(other)[0].parameters()), margin, 0.0)
    adapter = sar(model, margin=margin)
    for x in stream((8,) * 6):
        got = adapter.predict(x)
        torch.testing.assert_close(got, naive.predict(x), rtol=0, atol=1e-11)
        assert not got.requires_grad
    if margin < 1:
        assert 6 < sum(naive.counts) < 42, "some are reliable, others not"


@pytest.mark.parametrize(("norm", "recovery"), [("batch", 1.17), ("group", 0.83)])
def test_recovers_when_the_running_mean_falls_below_and_starts_afresh(norm: str, recovery: float) -> None:
    model = network(norm)
    other = copy.deepcopy(model)
    naive = Naive(other, list(norms(other)[0].parameters()), 2.0, recovery)
    adapter, before = sar(model, margin=2.0, recovery=recovery), parameters(model)
    xs = stream((8,) * 40)
    for i, x in enumerate(xs):
        torch.testing.assert_close(adapter.predict(x), naive.predict(x), rtol=0, atol=1e-10)
        assert bool(changed(model, before)) == (i not in naive.resets)
    assert len(naive.resets) > 1


def test_the_step_of_recovery_is_known_where_entropies_are() -> None:
    """Without a learning rate entropies stay: 0.9^t a + (1 - 0.9^t) b < e_m, from a batch of entropy a on."""
    unsure, sure = torch.zeros(8, 2, 6, 6), torch.zeros(8, 2, 6, 6)
    model = network("group")
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.copy_(torch.tensor([2.0, 0.0, 0.0, 0.0]))
    a = entropies(model.eval()(unsure))[0].item()
    adapter = sar(model, lr=0.0, margin=2.0, recovery=0.6)
    adapter.predict(unsure)
    with torch.no_grad():
        model.classifier.bias[0] = 4.0
    b = entropies(model(sure))[0].item()
    assert b < 0.6 < a
    first = next(t for t in range(1, 100) if 0.9**t * a + (1 - 0.9**t) * b < 0.6)
    means = []
    for _ in range(first + 2):
        adapter.predict(sure)
        means.append(adapter._mean)
    assert first > 2
    assert [mean is None for mean in means] == [False] * (first - 1) + [True] * 3


def test_no_recovery_below_the_threshold_of_0() -> None:
    model = network("group")
    with torch.no_grad():
        model.classifier.bias[0] = 1000.0
    adapter = sar(model, margin=2.0, recovery=0.0)
    adapter.predict(stream()[0])
    assert adapter._mean == 0.0


@pytest.mark.parametrize("sizes", [(8, 8, 8), (8, 8, 1)])
def test_without_its_own_parts_it_is_tent_by_sgd(sizes: tuple[int, ...]) -> None:
    tent = TENT(network(), TENT.Hparams(lr=LR, optimizer="sgd"))
    plain = sar(rho=0.0, margin=2.0, recovery=0.0, top=0.0)
    for x in stream(sizes):
        torch.testing.assert_close(plain.predict(x), tent.predict(x), rtol=0, atol=1e-13)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_nothing_is_reliable_below_an_entropy_of_0(norm: str) -> None:
    model = network(norm)
    before, reference = parameters(model), in_batches(copy.deepcopy(model))
    adapter = sar(model, margin=0.0, lr=1.0)
    for x in stream():
        assert torch.equal(adapter.predict(x), reference(x))
    assert not changed(model, before)


def test_a_batch_without_reliable_inputs_changes_nothing_in_spite_of_momentum() -> None:
    model = network("group")
    adapter = sar(model, margin=0.62)
    adapter.predict(stream()[0])
    assert adapter._optimizer.state, "there is momentum"
    with torch.no_grad():
        model.classifier.weight.zero_()
    before = parameters(model)
    adapter.predict(stream()[1])
    assert not changed(model, before)


def test_a_climb_that_leaves_nothing_reliable_changes_nothing() -> None:
    model = network("group")
    before, x = parameters(model), stream()[0]
    surest = min(entropies(model.eval()(x))).item() / math.log(CLASSES)
    sar(model, margin=surest * 1.0001, rho=1.0).predict(x)
    assert not changed(model, before)
    sar(model, margin=surest * 1.0001, rho=0.0).predict(x)
    assert changed(model, before) == FIRST_NORM


# -- what learns --------------------------------------------------------------------------------------------------


def learns(model: Network, **hparams: Any) -> set[str]:
    """Names of the modules whose scales and shifts learn."""
    sar(model, **hparams)
    return {name.rpartition(".")[0] for name, p in model.featurizer.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_the_top_stays(norm: str) -> None:
    assert learns(network(norm)) == {"1"}
    assert learns(network(norm), top=0.0) == {"1", "4"}
    assert learns(network(norm), top=0.99) == {"1"}


def timm_network(name: str) -> Network:
    return build_network((3, 64, 64), CLASSES, setting(backbone=name, pretrained=False))


def test_the_top_of_known_networks_is_that_of_the_authors() -> None:
    found = learns(timm_network("resnet18"))
    assert {name.partition(".")[0] for name in found} == {"bn1", "layer1", "layer2", "layer3"}
    assert len(found) == 15
    vit = build_network((3, 224, 224), CLASSES, setting(backbone="vit_tiny_patch16_224", pretrained=False))
    assert learns(vit) == {f"blocks.{i}.norm{j}" for i in range(9) for j in (1, 2)}
    assert learns(copy.deepcopy(vit), top=0.0) == {f"blocks.{i}.norm{j}" for i in range(12) for j in (1, 2)} | {"norm"}


def test_digits_networks_can_learn() -> None:
    assert learns(build_network((1, 28, 28), 10, setting(backbone="MNIST_CNN"))) == {"2", "5", "8"}
    assert learns(build_network((1, 8, 8), 10, setting(backbone="SmallCNN"))) == {"2"}


def test_refuses_what_it_cannot_do() -> None:
    with pytest.raises(UserError, match=r"this network has none: train another backbone, such as resnet18, or lower"):
        sar(network("none"))
    with pytest.raises(UserError) as error:
        SAR.Hparams(lr=-1.0, rho=-1.0, margin=-1.0, recovery=-1.0, top=1.0)
    for name in ("lr", "rho", "margin", "recovery"):
        assert f"{name} must be at least 0" in str(error.value)
    assert "top must lie in [0, 1), not 1.0" in str(error.value)
