from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dgbench.algorithms.mtl import MTL, MarginalNetwork
from dgbench.core.errors import UserError
from dgbench.core.setting import Setting, setting
from dgbench.methods.batch import Batch, Task
from dgbench.networks.network import IMAGENET_MEAN, Network


class Toy(MTL):
    """Takes the toy's plain network, whose classifier is half as wide."""

    def __init__(self, network: Network, hparams: Any, task: Task, setting: Setting) -> None:
        wide = MarginalNetwork(network.featurizer, 16, task.num_classes, setting, network.dropout.p)
        super().__init__(wide, hparams, task, setting)


def reference(ema: float) -> Callable[[SimpleNamespace, list[Batch], int], None]:
    """Domain by domain, as DomainBed's loop would be without its noise."""
    kept: dict[int, Tensor] = {}

    def step_(other: SimpleNamespace, batches: list[Batch], step: int) -> None:
        total = torch.zeros(())
        for domain, b in enumerate(batches):
            z = other.network.featurizer(b.x)
            embedding = ema * z.mean(0) + (1 - ema) * kept.get(domain, torch.zeros(8))
            kept[domain] = embedding.detach()
            rows = torch.cat([torch.cat([row, embedding])[None] for row in z])
            total = total + F.cross_entropy(other.network.classifier(rows), b.y)
        other.remembered["embeddings"] = torch.stack([kept[i] for i in range(len(batches))])
        other.network.embedding.copy_(sum(kept.values()) / len(kept))
        other.optimizer.zero_grad()
        total.backward()
        other.optimizer.step()

    return step_


@pytest.mark.parametrize("ema", [0.5, 1.0])
def test_equals_a_plain_loop(toy: SimpleNamespace, norm: str, optimizer: str, ema: float) -> None:
    toy.agrees(
        toy.make(Toy, norm=norm, optimizer=optimizer, mtl_ema=ema),
        reference(ema),
        logs=lambda losses: {"loss": losses[0], "nll": losses[0] / 3},
    )


def test_an_unseen_domain_is_given_the_mean_of_the_seen_ones_embeddings(toy: SimpleNamespace) -> None:
    """Predictions stand alone, are the same twice, and read nothing but what an average of weights would keep."""
    algorithm = toy.make(Toy, mtl_ema=0.5)
    for step in range(2):
        toy.take(algorithm, step)
    algorithm.eval()
    x = toy.batches(5)[0].x
    together = algorithm(x)
    assert torch.equal(together, algorithm(x))
    torch.testing.assert_close(torch.cat([algorithm(row[None]) for row in x]), together)
    own, mean = algorithm.network.featurizer(x), algorithm.embeddings.mean(0)
    torch.testing.assert_close(together, algorithm.network.classifier(torch.cat([own, mean.expand_as(own)], 1)))
    assert "network.embedding" in algorithm.predictor_tensors()


def test_the_gradient_flows_through_the_minibatchs_part(toy: SimpleNamespace) -> None:
    """With a classifier that sees the embedding alone, the featurizer learns in proportion to mtl_ema."""
    gradients = []
    for ema in (1.0, 0.5):
        algorithm = toy.make(Toy, mtl_ema=ema)
        with torch.no_grad():
            algorithm.network.classifier.weight[:, :8] = 0
            algorithm.embeddings.copy_(torch.stack([algorithm.network.featurizer(b.x).mean(0) for b in toy.batches(0)]))
        toy.take(algorithm, 0)
        gradients.append(algorithm.network.featurizer[0].weight.grad)
    torch.testing.assert_close(gradients[1], gradients[0] / 2)


def test_a_run_gets_a_network_for_twice_the_features() -> None:
    hparams = MTL.Hparams(resnet_dropout=0.1)
    network = MTL.make_network((3, 32, 32), 5, hparams, setting(backbone="SmallCNN", nonlinear_classifier=True))
    assert isinstance(network, MarginalNetwork)
    assert network.classifier[0].in_features == network.num_features == 256
    assert network.dropout.p == 0.1
    photographs = MTL.make_network((3, 64, 64), 5, hparams, setting(backbone="resnet18", pretrained=False))
    torch.testing.assert_close(photographs.mean.flatten(), torch.tensor(IMAGENET_MEAN))
    assert photographs.normalizes


def test_impossible_weights_are_refused() -> None:
    with pytest.raises(UserError, match="mtl_ema"):
        MTL.Hparams(mtl_ema=1.1)


def test_resumes_exactly(toy: SimpleNamespace, optimizer: str) -> None:
    toy.resumes(Toy, norm="live", optimizer=optimizer, dropout=0.3, mtl_ema=0.5)
