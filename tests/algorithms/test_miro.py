from __future__ import annotations

import copy
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from dgbench.algorithms.erm import ERM
from dgbench.algorithms.miro import MIRO, _channel_axis, hooked, staged
from dgbench.core.setting import setting
from dgbench.core.space import resolve, space_of
from dgbench.methods.batch import Batch
from dgbench.networks.language import TextFeaturizer
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
    old = copy.deepcopy(algorithm.network).train()  # whose batch norm is frozen or live as the network's
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


def test_at_the_start_the_distance_is_the_variances_alone(toy: SimpleNamespace, norm: str) -> None:
    """Its minimum: also where batch norm is live, as both networks then normalise by the minibatch."""
    algorithm = toy.make(MIRO, norm=norm, images=True, ld=LD)
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


OUTPUTS: dict[str, list[tuple[int, ...]]] = {
    "resnet18": [(64, 56, 56), (64, 56, 56), (128, 28, 28), (256, 14, 14), (512, 7, 7)],
    "resnet50_clip.openai": [(64, 56, 56), (256, 56, 56), (512, 28, 28), (1024, 14, 14), (2048, 7, 7)],
    "regnety_160": [(32, 112, 112), (224, 56, 56), (448, 28, 28), (1232, 14, 14), (3024, 7, 7)],
    "vit_tiny_patch16_224": [(196, 192), *[(197, 192)] * 4],
    "vit_small_patch16_dinov3": [(196, 384), *[(201, 384)] * 4],
    "convnext_atto": [(40, 56, 56), (40, 56, 56), (80, 28, 28), (160, 14, 14), (320, 7, 7)],
    "tf_efficientnet_lite0": [(16, 112, 112), (24, 56, 56), (40, 28, 28), (112, 14, 14), (320, 7, 7)],
}
"""Network -> the shapes of an image's outputs. The first four are the authors': the stem after its pooling and four
stages, or the patch embedding and four quarters of blocks."""


@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs_are_those_of_the_authors_code(name: str) -> None:
    with torch.device("meta"), torch.no_grad():
        featurizer = timm.create_model(name, num_classes=0)
        network = Network(featurizer, featurizer.num_features, 3, setting()).eval()
        _, maps = staged(network, torch.zeros(1, 3, 224, 224))
    assert [tuple(x.shape[1:]) for x in maps] == OUTPUTS[name]
    assert [x.shape[_channel_axis(x)] for x in maps] == [shape[0 if len(shape) == 3 else -1] for shape in OUTPUTS[name]]


@pytest.mark.parametrize(
    ("blocks", "ends"), [(12, [2, 5, 8, 11]), (24, [5, 11, 17, 23]), (6, [1, 2, 4, 5]), (2, [0, 1])]
)
def test_of_blocks_those_that_end_a_quarter_count(blocks: int, ends: list[int]) -> None:
    with torch.device("meta"):
        featurizer: Any = timm.create_model("test_vit", num_classes=0, depth=blocks)
        found = hooked(Network(featurizer, 64, 3, setting()))
    assert found == [featurizer.patch_embed, *(featurizer.blocks[i] for i in ends)]


def test_of_a_language_model_the_embedding_and_four_quarters_count() -> None:
    transformers = pytest.importorskip("transformers", reason="extra `text` is not installed")
    config = transformers.DistilBertConfig(vocab_size=9, dim=8, n_heads=2, n_layers=8, hidden_dim=8)
    featurizer = TextFeaturizer(transformers.DistilBertModel(config))
    x = torch.ones(3, 2, 5, dtype=torch.int64)
    _, maps = staged(Network(featurizer, 8, 2, setting()).eval(), x)
    assert [tuple(stage.shape) for stage in maps] == [(3, 5, 8)] * 5


def test_the_weight_is_the_data_sets() -> None:
    space = space_of(MIRO.Hparams)
    weights = [resolve(space, traits=(name,))["ld"] for name in ("PACS", "VLCS", "OfficeHome", "DomainNet")]
    assert weights == [0.01, 0.01, 0.1, 0.1]


@pytest.mark.parametrize("images", [False, True])
def test_resumes_exactly(toy: SimpleNamespace, optimizer: str, images: bool) -> None:
    toy.resumes(MIRO, norm="live", optimizer=optimizer, dropout=0.3, images=images)
