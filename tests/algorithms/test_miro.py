from __future__ import annotations

import copy
import math
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from dgbench.algorithms.erm import ERM
from dgbench.algorithms.miro import MIRO, _channel_axis, staged
from dgbench.core.setting import setting
from dgbench.core.space import resolve, space_of
from dgbench.methods.algorithm import Batch
from dgbench.networks.network import Network

LD = 0.7


def through(network: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """The outputs of the modules that end a stage, by walking through the featurizer by hand: after each Tanh."""
    maps = []
    for layer in network.featurizer:
        x = layer(x)
        if isinstance(layer, nn.Tanh):
            maps.append(x)
    return [*maps, x]


def reference(algorithm: MIRO) -> Callable[[SimpleNamespace, list[Batch], int], None]:
    old = copy.deepcopy(algorithm.network).eval()
    spreads = [nn.Parameter(torch.full((c,), math.log(math.exp(0.1 - 1e-5) - 1))) for c in (4, 8)]
    kinds = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}
    more = {"momentum": 0.9} if algorithm.setting.optimizer == "sgd" else {}
    optimizer = kinds[algorithm.setting.optimizer](spreads, lr=1e-1, weight_decay=1e-2, **more)

    def step_(other: SimpleNamespace, batches: list[Batch], step: int) -> None:
        x, y = torch.cat([b.x for b in batches]), torch.cat([b.y for b in batches])
        before = through(old, x)[:-1]
        *maps, z = through(other.network, x)
        loss = F.cross_entropy(other.network.classifier(z), y)
        for f, f0, b in zip(maps, before, spreads, strict=True):
            s2 = (F.softplus(b) + 1e-5).view(1, -1, 1, 1)
            loss = loss + LD * 0.5 * ((f - f0.detach()) ** 2 / s2 + s2.log().expand_as(f)).mean()
        other.optimizer.zero_grad()
        optimizer.zero_grad()
        loss.backward()
        other.optimizer.step()
        optimizer.step()

    return step_


def test_equals_a_plain_loop(toy: SimpleNamespace, norm: str, optimizer: str) -> None:
    algorithm = toy.make(MIRO, norm=norm, optimizer=optimizer, images=True, ld=LD)
    toy.agrees(algorithm, reference(algorithm))


def test_at_the_start_the_distance_is_the_variances_alone(toy: SimpleNamespace) -> None:
    algorithm = toy.make(MIRO, images=True, ld=LD)
    assert [len(spread) for spread in algorithm.spreads] == [4, 8]
    assert toy.take(algorithm, 0)["penalty"] == pytest.approx(2 * math.log(0.1) / 2, abs=1e-12)


def test_without_weight_it_is_erm(toy: SimpleNamespace) -> None:
    miro, erm = toy.make(MIRO, ld=0.0), toy.make(ERM)
    for step in range(3):
        toy.take(miro, step)
        toy.take(erm, step)
    for p, q in zip(miro.network.parameters(), erm.network.parameters(), strict=True):
        assert torch.equal(p, q)


def test_the_initial_network_stays_as_it_was(toy: SimpleNamespace) -> None:
    algorithm = toy.make(MIRO, norm="live", images=True, ld=LD)
    before = {name: tensor.clone() for name, tensor in algorithm.initial.state_dict().items()}
    for step in range(2):
        toy.take(algorithm, step)
    assert all(torch.equal(tensor, before[name]) for name, tensor in algorithm.initial.state_dict().items())
    assert not any(name.startswith("initial") for name in algorithm.predictor_tensors())


@pytest.mark.parametrize(
    ("name", "channels"),
    [("resnet18", [64, 64, 128, 256, 512]), ("vit_tiny_patch16_224", [192] * 12)],
)
def test_stages_of_published_networks(name: str, channels: list[int]) -> None:
    featurizer = timm.create_model(name, num_classes=0)
    network = Network(featurizer, featurizer.num_features, 3, setting()).eval()
    with torch.no_grad():
        _, maps = staged(network, torch.zeros(1, 3, 224, 224))
    assert [x.shape[_channel_axis(x)] for x in maps] == channels


def test_the_weight_is_the_data_sets() -> None:
    space = space_of(MIRO.Hparams)
    weights = [resolve(space, traits=(name,))["ld"] for name in ("PACS", "VLCS", "OfficeHome", "DomainNet")]
    assert weights == [0.01, 0.01, 0.1, 0.1]


@pytest.mark.parametrize("images", [False, True])
def test_resumes_exactly(toy: SimpleNamespace, optimizer: str, images: bool) -> None:
    toy.resumes(MIRO, norm="live", optimizer=optimizer, dropout=0.3, images=images)
