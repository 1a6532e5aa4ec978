from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dgbench.algorithms.arm import ARM, ContextNetwork, context_net
from dgbench.core.errors import UserError
from dgbench.core.setting import Setting, setting
from dgbench.methods.batch import Batch, Task
from dgbench.networks.network import Network


class Toy(ARM):
    """Takes the toy's plain network, whose first convolution gets a channel more."""

    def __init__(self, network: Network, hparams: Any, task: Task, setting: Setting) -> None:
        featurizer = copy.deepcopy(network.featurizer)
        channels = task.input_shape[0]
        featurizer[0] = nn.Conv2d(channels + 1, featurizer[0].out_channels, 3)
        wider = ContextNetwork(featurizer, 8, task.num_classes, setting, network.dropout.p)
        wider.context = context_net(channels, 3)
        wider.support = hparams.batch_size
        super().__init__(wider, hparams, task, setting)


def reference(other: SimpleNamespace, batches: list[Batch], step: int) -> None:
    network = other.network
    x = torch.cat([b.x for b in batches])
    context = network.context(x)
    rows, start = [], 0
    for b in batches:
        shared = sum(context[start + i] for i in range(len(b.y))) / len(b.y)
        rows += [torch.cat([image, shared])[None] for image in b.x]
        start += len(b.y)
    logits = network.classifier(network.featurizer(torch.cat(rows)))
    other.optimizer.zero_grad()
    F.cross_entropy(logits, torch.cat([b.y for b in batches])).backward()
    other.optimizer.step()


def test_equals_a_plain_loop(toy: SimpleNamespace, norm: str, optimizer: str) -> None:
    toy.agrees(toy.make(Toy, images=True, norm=norm, optimizer=optimizer), reference)


def test_the_context_network_learns_and_its_batch_norm_is_live(toy: SimpleNamespace) -> None:
    algorithm = toy.make(Toy, images=True, norm="frozen")
    before = copy.deepcopy(algorithm.network.context.state_dict())
    toy.take(algorithm, 0)
    after = algorithm.network.context.state_dict()
    assert all(not torch.equal(before[name], after[name]) for name in before)
    statistics = algorithm.network.featurizer[1]
    assert torch.equal(statistics.running_mean, torch.zeros(4)), "the featurizer's is frozen"


def test_predictions_share_the_context_of_their_group(toy: SimpleNamespace) -> None:
    algorithm = toy.make(Toy, images=True, batch_size=3)
    toy.take(algorithm, 0)
    algorithm.eval()
    x = toy.batches(1, shape=algorithm.task.input_shape)[2].x
    torch.testing.assert_close(algorithm(x), torch.cat([algorithm(x[:3]), algorithm(x[3:6]), algorithm(x[6:])]))
    assert not torch.allclose(algorithm(x[:3])[:2], algorithm(x[:2]))


def test_a_run_gets_a_network_for_one_more_channel() -> None:
    hparams = ARM.Hparams(batch_size=5)
    network = ARM.make_network((3, 32, 32), 4, hparams, setting(backbone="resnet18", pretrained=False))
    x = torch.rand(6, 3, 32, 32)
    prepared = network.prepare((255 * x).to(torch.uint8))
    assert prepared.mean() < 0.5, "images are normalised, although the network has four channels"
    assert network(prepared).shape == (6, 4)
    assert network.support == 5
    assert network.context[0].out_channels == 64


def test_vectors_are_refused() -> None:
    with pytest.raises(UserError, match="channel"):
        ARM.make_network((6,), 4, ARM.Hparams(), setting(backbone="MLP"))


def test_resumes_exactly(toy: SimpleNamespace, optimizer: str) -> None:
    toy.resumes(Toy, images=True, norm="live", optimizer=optimizer, dropout=0.3)
