from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dgbench.algorithms.urm import URM, BoundedNetwork
from dgbench.core.errors import UserError
from dgbench.core.setting import Setting, setting
from dgbench.methods.batch import Batch, Task
from dgbench.networks.network import Network

VALUES = {"urm_adv_lambda": 0.6, "urm_discriminator_lr": 2e-2}


class Toy(URM):
    """Takes the toy's plain network."""

    def __init__(self, network: Network, hparams: Any, task: Task, setting: Setting) -> None:
        bounded = BoundedNetwork(network.featurizer, 8, task.num_classes, setting, network.dropout.p)
        bounded.output = hparams.urm_generator_output
        super().__init__(bounded, hparams, task, setting)


def reference(
    toy: SimpleNamespace, algorithm: URM
) -> Callable[[SimpleNamespace, list[Batch], int], dict[str, torch.Tensor]]:
    disc, h = copy.deepcopy(algorithm.discriminator), algorithm.hparams
    disc_optimizer = toy.hand_made(algorithm, disc)
    disc_optimizer.param_groups[0]["lr"] = h.urm_discriminator_lr
    activation, low = {"tanh": (nn.Tanh(), -1.0), "relu": (nn.ReLU(), 0.0)}[h.urm_generator_output]
    s = h.urm_discriminator_label_smoothing

    def step_(other: SimpleNamespace, batches: list[Batch], step: int) -> dict[str, torch.Tensor]:
        z = activation(other.network.featurizer(torch.cat([b.x for b in batches])))
        nll = F.cross_entropy(other.network.classifier(z), torch.cat([b.y for b in batches]))
        other.optimizer.zero_grad()
        penalty = -disc(z).sigmoid().log().mean()
        (nll + h.urm_adv_lambda * penalty).backward()
        other.optimizer.step()

        z = z.detach()
        noise = low + (1 - low) * torch.rand(z.shape)
        p, q = disc(noise).sigmoid(), disc(z).sigmoid()
        a, b = (s * torch.rand(p.shape) if s else torch.zeros(p.shape) for _ in range(2))
        real = ((1 - a) * p.log() + a * (1 - p).log()).mean()
        fake = (b * q.log() + (1 - b) * (1 - q).log()).mean()
        disc_optimizer.zero_grad()
        disc_loss = -real - h.urm_adv_lambda * fake
        disc_loss.backward()
        disc_optimizer.step()
        for mine, theirs in zip(algorithm.discriminator.parameters(), disc.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)
        return {"loss": nll.detach(), "penalty": penalty.detach(), "disc_loss": disc_loss.detach()}

    return step_


@pytest.mark.parametrize("output", ["tanh", "relu"])
def test_equals_a_plain_loop(toy: SimpleNamespace, norm: str, optimizer: str, output: str) -> None:
    algorithm = toy.make(Toy, norm=norm, optimizer=optimizer, urm_generator_output=output, **VALUES)
    toy.agrees(algorithm, reference(toy, algorithm))


def test_smoothed_labels_equal_a_plain_loop(toy: SimpleNamespace) -> None:
    algorithm = toy.make(Toy, urm_discriminator_label_smoothing=0.2, **VALUES)
    toy.agrees(algorithm, reference(toy, algorithm))


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_the_discriminator_has_as_many_layers_as_asked(toy: SimpleNamespace, layers: int) -> None:
    algorithm = toy.make(Toy, urm_discriminator_hidden_layers=layers)
    linear = [m for m in algorithm.discriminator if isinstance(m, nn.Linear)]
    assert [tuple(m.weight.shape) for m in linear] == [(100, 8), *[(100, 100)] * layers, (1, 100)]


def test_what_works_with_features_is_given_the_bounded_ones() -> None:
    hparams = URM.Hparams(urm_generator_output="relu")
    network = URM.make_network((3, 16, 16), 4, hparams, setting(backbone="SmallCNN"))
    x = torch.randn(5, 3, 16, 16)
    own = network.featurizer(x)
    assert own.min() < 0
    assert torch.equal(network.features(x), own.relu())
    assert torch.equal(network(x), network.classifier(own.relu()))


@pytest.mark.parametrize(
    "wrong",
    [
        {"urm_generator_output": "tan"},
        {"urm_discriminator_label_smoothing": 0.6},
        {"urm_discriminator_hidden_layers": -1},
    ],
)
def test_impossible_values_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        URM.Hparams(**wrong)


def test_resumes_exactly(toy: SimpleNamespace, optimizer: str) -> None:
    toy.resumes(Toy, norm="live", optimizer=optimizer, dropout=0.3, urm_discriminator_label_smoothing=0.1)
