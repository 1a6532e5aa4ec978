"""Marginal transfer learning: the classifier is told which distribution an example comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dgbench.algorithms._domains import places
from dgbench.algorithms._networks import rebuilt
from dgbench.core.cards import AlgorithmCard
from dgbench.core.setting import Setting
from dgbench.core.space import choice, hparam
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm, Batch
from dgbench.networks.network import Network, build_network


class MarginalNetwork(Network):
    """Features are the featurizer's and, beside them, what an unseen domain is taken to be like."""

    embedding: Tensor

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.register_buffer("embedding", torch.zeros(self.num_features // 2))

    def features(self, x: Tensor) -> Tensor:
        """(B, num_features), of which the second half is the same in each row."""
        own = super().features(x)
        return torch.cat([own, self.embedding.expand_as(own)], dim=1)


class MTL(Algorithm):
    """min over f, c of sum_e CE(c([f(x), m_e]), y), m_e <- a * mean f(x_e) + (1 - a) * m_e.

    Blanchard, Deshmukh, Dogan, Lee and Scott, "Domain Generalization by Marginal Transfer Learning", JMLR 2021, as a
    neural network: the kernel mean embedding of a domain is the moving mean m_e of its features, a is `mtl_ema`. The
    gradient flows through the minibatch's part of m_e.

    Departures from the paper: no kernel; and it embeds the test domain by a sample of it, which would make a
    prediction depend on the rest of its batch. Here an unseen domain is given the mean of the training domains'
    embeddings, so that each prediction stands alone. From DomainBed's code: the embedding is used as it is (theirs is
    overwritten by noise); at prediction theirs would take the batch's own mean. As there, losses are summed.
    """

    card = AlgorithmCard(
        paper="Blanchard et al., JMLR 2021",
        min_domains=2,
        unlike_domainbed="the embedding is overwritten by Gaussian noise, so predictions are random",
        needs=("feature_vectors",),
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Default and draw are DomainBed's."""

        mtl_ema: float = hparam(
            0.99, choice(0.5, 0.9, 0.99, 1.0), help="weight of the minibatch in the embedding", within="[0, 1]"
        )

    hparams: Hparams
    network: MarginalNetwork
    embeddings: Tensor

    @classmethod
    def make_network(cls, input_shape: Sequence[int], num_classes: int, hparams: Any, setting: Setting) -> Network:
        """A classifier of twice the features."""
        plain = build_network(input_shape, num_classes, setting, hparams.resnet_dropout)
        return rebuilt(MarginalNetwork, plain, 2 * plain.num_features, num_classes, setting)

    def build(self) -> None:
        """Make the embeddings of the training domains; they begin at 0."""
        self.register_buffer("embeddings", self.network.embedding.repeat(self.task.num_domains, 1))

    def update(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """One step, which also moves the embeddings."""
        network, ema = self.network, self.hparams.mtl_ema
        features = [z[:, : len(network.embedding)] for z in self.domain_features(batches)]
        means = torch.stack([z.mean(dim=0) for z in features])
        there = places(self, batches)
        embeddings = ema * means + (1 - ema) * self.embeddings[there]
        rows = torch.cat([m.expand_as(z) for m, z in zip(embeddings, features, strict=True)])
        logits = network.classifier(torch.cat([torch.cat(features), rows], dim=1)).split([len(z) for z in features])
        losses = torch.stack([self.criterion(z, b.y) for z, b in zip(logits, batches, strict=True)])
        with torch.no_grad():
            self.embeddings[there] = embeddings
            network.embedding.copy_(self.embeddings.mean(dim=0))
        self.descend(losses.sum())
        return {"loss": losses.detach().mean()}
