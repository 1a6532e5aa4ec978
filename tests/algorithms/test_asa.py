from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dgbench.algorithms.asa import ASA
from dgbench.core.errors import UserError
from dgbench.methods.batch import Batch

WEIGHT = 4.0


class Reversed(torch.autograd.Function):
    """The gradient reversal layer of the paper."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return -WEIGHT * gradient


def statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    mean, std = x.flatten(2).mean(2), (x.flatten(2).var(2) + 1e-6).sqrt()
    return mean, std, (mean.var(0) + 1e-6).sqrt(), (std.var(0) + 1e-6).sqrt()


class Reference:
    """Spreads by stage as a plain list, with an optimizer of their own."""

    def __init__(self, algorithm: ASA) -> None:
        self.kind, self.lr = algorithm.setting.optimizer, algorithm.hparams.lr
        self.spreads: list[list[Tensor]] = []

    def passed(self, network: torch.nn.Module, x: Tensor) -> Tensor:
        stages = list(network.stages)
        for layer in network.featurizer:
            x = layer(x)
            if layer not in stages:
                continue
            mean, std, *batch = statistics(x)
            if len(self.spreads) < len(stages):
                self.spreads.append([each.detach().clone().requires_grad_() for each in batch])
            drawn = float(torch.rand(1))
            if drawn < 1 / 3:
                continue
            learned = [Reversed.apply(each) for each in self.spreads[stages.index(layer)]]
            spread = learned if drawn < 2 / 3 else batch
            n1, n2 = (torch.randn(*mean.shape, 1, 1).flatten(1) for _ in range(2))
            normal = (x.flatten(2) - mean[..., None]) / std[..., None]
            new_mean, new_std = mean + n1 * spread[0], std + n2 * spread[1]
            x = (normal * new_std[..., None] + new_mean[..., None]).view(x.shape)
        return network.classifier(x)

    def __call__(self, other: SimpleNamespace, batches: list[Batch], step: int) -> None:
        x, y = torch.cat([b.x for b in batches]), torch.cat([b.y for b in batches])
        for k in range(3):
            loss = F.cross_entropy(self.passed(other.network, x), y)
            if step == k == 0:
                leaves = [each for pair in self.spreads for each in pair]
                sgd = self.kind == "sgd"
                self.optimizer = (
                    torch.optim.SGD(leaves, lr=self.lr, momentum=0.9) if sgd else torch.optim.Adam(leaves, lr=self.lr)
                )
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        other.optimizer.zero_grad()
        F.cross_entropy(self.passed(other.network, x), y).backward()
        other.optimizer.step()


def test_equals_a_plain_loop(toy: SimpleNamespace, norm: str, optimizer: str) -> None:
    algorithm = toy.make(ASA, images=True, norm=norm, optimizer=optimizer, adv_weight=WEIGHT)
    reference = Reference(algorithm)
    toy.agrees(algorithm, reference)
    for k, (mean, std) in enumerate(reference.spreads):
        torch.testing.assert_close(algorithm.mean_spreads[k].flatten(), mean, rtol=0, atol=1e-12)
        # The mean over positions undoes what the last stage's deviations become: a gradient of rounding errors.
        tolerance = 1e-8 if k == len(reference.spreads) - 1 else 1e-12
        torch.testing.assert_close(algorithm.std_spreads[k].flatten(), std, rtol=0, atol=tolerance)


def test_style_steps_go_uphill_and_leave_the_network_alone(toy: SimpleNamespace) -> None:
    algorithm = toy.make(ASA, images=True, optimizer="sgd", lr=1e-3, adv_weight=1.0)
    toy.take(algorithm, 0)
    data = toy.batches(1, shape=(2, 6, 6))
    algorithm.optimizer.step = lambda: None
    before = {name: tensor.clone() for name, tensor in algorithm.network.state_dict().items()}

    def adversarial_loss() -> float:
        total = 0.0
        for seed in range(60):
            torch.manual_seed(seed)
            total += algorithm._styled_loss(data).item()
        return total

    low, algorithm.step = adversarial_loss(), 1
    for seed in range(40):
        torch.manual_seed(seed)
        algorithm.update(data)
    assert adversarial_loss() > low
    assert all(torch.equal(before[name], tensor) for name, tensor in algorithm.network.state_dict().items())


def test_a_step_takes_four_passes(toy: SimpleNamespace) -> None:
    algorithm = toy.make(ASA, images=True)
    rows = {"forward": 0, "backward": 0}

    def count(_: Any, __: Any, out: Tensor) -> None:
        rows["forward"] += len(out)
        out.register_hook(lambda g: rows.__setitem__("backward", rows["backward"] + len(g)))

    algorithm.network.featurizer.register_forward_hook(count)
    toy.take(algorithm, 0)
    assert rows == {"forward": 4 * 16, "backward": 4 * 16}


def test_prediction_is_never_changed(toy: SimpleNamespace) -> None:
    algorithm = toy.make(ASA, images=True).eval()
    x = torch.randn(4, 2, 6, 6)
    assert torch.equal(algorithm(x), algorithm.network(x))
    assert all(name.startswith("network.") for name in algorithm.predictor_tensors())


def test_impossible_values_are_refused(toy: SimpleNamespace) -> None:
    with pytest.raises(UserError, match="adv_weight must be at least 0") as caught:
        ASA.Hparams(adv_weight=-1.0, asa_style_steps=0)
    assert len(caught.value.problems) == 2
    with pytest.raises(UserError, match="feature maps"):
        toy.make(ASA)
    with pytest.raises(UserError, match="two examples"):
        toy.make(ASA, images=True, domains=1, batch_size=1)


def test_resumes_exactly(toy: SimpleNamespace, optimizer: str) -> None:
    toy.resumes(ASA, images=True, norm="live", optimizer=optimizer, dropout=0.3)
