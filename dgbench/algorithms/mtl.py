"""Marginal transfer learning: the classifier also sees which distribution an example comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dgbench.algorithms._domains import domain_indices
from dgbench.algorithms._networks import rebuild
from dgbench.core.cards import AlgorithmCard
from dgbench.core.setting import Setting
from dgbench.core.space import choice, hparam
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.batch import Batch
from dgbench.networks.network import Network, build_network


class MarginalNetwork(Network):
    """Network of MTL: its features are the featurizer's, followed by the embedding that stands for an unseen domain."""

    embedding: Tensor

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.register_buffer("embedding", torch.zeros(self.num_features // 2))

    def features(self, x: Tensor) -> Tensor:
        """Return features (B, num_features), of which the second half is the same in each row."""
        own = super().features(x)
        return torch.cat([own, self.embedding.expand_as(own)], dim=1)


class MTL(Algorithm):
    r"""Give the classifier a running mean of the domain's features beside those of the example.

    $$
    \min_{f, c} \; \sum_e \mathrm{CE}\big(c([f(x), m_e]),\, y\big), \qquad
    m_e \leftarrow a\, \overline{f(x_e)} + (1 - a)\, m_e
    $$

    $f(x)$ are the features of an example of domain $e$, and its classifier $c$ takes them with $m_e$, the moving mean
    of the domain's features; $\overline{f(x_e)}$ is their mean over the minibatch. $a$ is `mtl_ema`, the weight of the
    new mean, through which the gradient flows. In prediction, an unseen domain gets the mean of the training domains'
    embeddings, so that each prediction stands alone.

    Reference:
        Blanchard, Deshmukh, Dogan, Lee and Scott, "Domain Generalization by Marginal Transfer Learning", JMLR 2021, as
        a neural network: $m_e$ takes the place of the kernel mean embedding of a domain.

    Departures from the paper: there is no kernel. The paper embeds the test domain by a sample of it, which would make
    a prediction depend on the rest of its batch.

    Departures from DomainBed's code: the embedding is used as it is; DomainBed overwrites it by noise, and would use
    the batch's own mean in prediction. As in DomainBed, the domains' losses are summed.
    """

    card = AlgorithmCard(
        paper="Blanchard et al., JMLR 2021",
        link="https://arxiv.org/abs/1711.07910",
        tags=("domain-context",),
        min_domains=2,
        unlike_domainbed="the embedding is overwritten by Gaussian noise, so predictions are random",
        needs=("feature_vectors",),
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Hyperparameters of MTL; default and draw are DomainBed's."""

        mtl_ema: float = hparam(
            0.99,
            choice(0.5, 0.9, 0.99, 1.0),
            help="weight of the minibatch in the mean of a domain's features",
            within="[0, 1]",
        )

    hparams: Hparams
    network: MarginalNetwork
    embeddings: Tensor

    @classmethod
    def make_network(cls, input_shape: Sequence[int], num_classes: int, hparams: Any, setting: Setting) -> Network:
        """Return a network whose classifier takes twice the features of the backbone."""
        plain = build_network(input_shape, num_classes, setting, hparams.resnet_dropout)
        return rebuild(MarginalNetwork, plain, 2 * plain.num_features, num_classes, setting)

    def build(self) -> None:
        """Create the embeddings of the training domains, which begin at 0."""
        self.register_buffer("embeddings", self.network.embedding.repeat(self.task.num_domains, 1))

    def loss(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """Return the sum of the domains' losses; the embeddings that it reads are kept at the end of the step."""
        network, ema = self.network, self.hparams.mtl_ema
        # The second half of each row is the embedding for prediction; training replaces it by the domain's own.
        features = [z[:, : len(network.embedding)] for z in self.domain_features(batches)]
        means = torch.stack([z.mean(dim=0) for z in features])
        domains = domain_indices(self, batches)
        embeddings = ema * means + (1 - ema) * self.embeddings[domains]
        rows = torch.cat([m.expand_as(z) for m, z in zip(embeddings, features, strict=True)])
        logits = network.classifier(torch.cat([torch.cat(features), rows], dim=1)).split([len(z) for z in features])
        losses = torch.stack([self.criterion(z, b.y) for z, b in zip(logits, batches, strict=True)])
        self.defer(lambda: self._keep(domains, embeddings))
        return {"loss": losses.sum(), "nll": losses.mean()}

    def _keep(self, domains: Tensor, embeddings: Tensor) -> None:
        """Put these embeddings (E, num_features) in their domains' places, and their mean in the network."""
        self.embeddings[domains] = embeddings
        self.network.embedding.copy_(self.embeddings.mean(dim=0))
