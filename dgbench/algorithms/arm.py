"""Adaptive risk minimization (ARM): images get a channel that summarizes the other inputs of their batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dgbench.core.cards import AlgorithmCard
from dgbench.core.errors import UserError
from dgbench.core.setting import Setting
from dgbench.core.space import hparam, power
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.batch import Batch
from dgbench.networks.backbones import normalization_of
from dgbench.networks.network import Network, build_network


class ContextNetwork(Network):
    """A network whose images get one more channel: the mean over a group of a context network's outputs.

    `context` is the context network, from an image to one channel of the same size; `support` is the size of a group at
    prediction. Made by `ARM.make_network`.
    """

    context: nn.Sequential
    support: int

    def features(self, x: Tensor) -> Tensor:
        """Compute the features (B, num_features), with each run of `support` consecutive images as a group.

        The last group has the images that are left.
        """
        return self.features_of_groups(torch.split(x, self.support))

    def features_of_groups(self, groups: Sequence[Tensor]) -> Tensor:
        """Compute the features (B, num_features) of all groups of images in one pass.

        Args:
            groups: Images (n, C, H, W); each group shares a context.
        """
        x = torch.cat(list(groups))
        contexts = torch.split(self.context(x), [len(group) for group in groups])
        shared = torch.cat([c.mean(dim=0, keepdim=True).expand_as(c) for c in contexts])
        return super().features(torch.cat([x, shared], dim=1))

    def train(self, mode: bool = True) -> ContextNetwork:
        """Set training or evaluation mode.

        The batch norm of the context network, which starts untrained, follows it even where batch norm is frozen.
        """
        super().train(mode)
        self.context.train(mode)
        return self


class ARM(Algorithm):
    r"""Feed the network a learned summary of the other inputs of the domain's batch, at training and at prediction.

    $$
    \min_{f, c, k} \; \mathrm{CE}\big(c(f([x, \bar k])), y\big), \qquad \bar k = \frac{1}{B} \sum_{j=1}^{B} k(x_j)
    $$

    The context $\bar k$, one channel beside the image's, is the mean over the minibatch of the example's domain of the
    outputs of a context network $k$: the paper's ARM-CML. $k$ is DomainBed's: 5 x 5 convolutions to 64, 64 and 1
    channels with batch norm and ReLU between them. At prediction the mean is over groups of `batch_size` inputs, which
    a seeded order of the view makes.

    Reference:
        Zhang, Marklund, Dhawan, Gupta, Levine and Finn, "Adaptive Risk Minimization: Learning to Adapt to Domain
        Shift", NeurIPS 2021.

    Departures from DomainBed's code:

    - $k$ is trained.
    - A batch that is no multiple of `batch_size` is cut into groups and a rest (theirs is then one group).
    - Convolutions before batch norm have no bias, which the norm would take out.
    - The context network's batch norm is never frozen.
    """

    card = AlgorithmCard(
        paper="Zhang et al., NeurIPS 2021",
        link="https://arxiv.org/abs/2007.02931",
        tags=("meta-learning", "domain-context", "test-time"),
        min_domains=2,
        transductive=True,
        rehearsal={"context_width": 4},
        unlike_domainbed="the context network is made after the optimizer and never trained",
        needs=("classes", "images"),
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Hyperparameters of ARM; defaults and draws are DomainBed's, where `context_width` is fixed."""

        context_width: int = hparam(
            64, help="channels between the convolutions of the context network", within="[1, inf)"
        )
        batch_size: int = hparam(
            8,
            help="examples of each domain in a step; inputs that share a context at prediction",
            variants={
                "few_examples": (32, power(2, 3, 5.5, integer=True)),
                "small_images": (64, power(2, 3, 9, integer=True)),
            },
            within="[1, inf)",
        )

    hparams: Hparams
    network: ContextNetwork

    @classmethod
    def make_network(cls, input_shape: Sequence[int], num_classes: int, hparams: Any, setting: Setting) -> Network:
        """Build a network for images with one more channel, and its context network."""
        if len(input_shape) != 3:
            raise UserError(f"ARM adds a channel to images; inputs of shape {tuple(input_shape)} have none")
        channels, height, width = input_shape
        plain = build_network((channels + 1, height, width), num_classes, setting, hparams.resnet_dropout)
        # Images are normalized as for any network; the context, which is no image, is not.
        normalization = normalization_of(setting.backbone, channels)
        network = ContextNetwork(
            plain.featurizer, plain.num_features, num_classes, setting, plain.dropout.p, normalization
        )
        network.context = context_net(channels, hparams.context_width).to(memory_format=network.memory_format)
        network.support = hparams.batch_size
        return network

    def loss(self, batches: Sequence[Batch]) -> Tensor:
        """Return the mean cross-entropy, with each domain's minibatch as a group, in one forward pass."""
        network = self.network
        features = network.dropout(network.features_of_groups([b.x for b in batches]))
        return F.cross_entropy(network.classifier(features), torch.cat([b.y for b in batches]))


def context_net(channels: int, width: int) -> nn.Sequential:
    """Build the context network, from images (B, channels, H, W) to (B, 1, H, W)."""
    layers: list[nn.Module] = []
    for width_in in (channels, width):
        layers += [nn.Conv2d(width_in, width, 5, padding=2, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(width, 1, 5, padding=2))
