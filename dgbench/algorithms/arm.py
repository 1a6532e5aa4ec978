"""Adaptive risk minimization: the network is shown what the other inputs of its batch have in common."""

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
from dgbench.methods.algorithm import Algorithm, Batch
from dgbench.networks.backbones import normalisation_of
from dgbench.networks.network import Network, build_network


class ContextNetwork(Network):
    """A network whose images have one more channel, the mean over a group of what a context network makes of them."""

    context: nn.Sequential
    support: int

    def features(self, x: Tensor) -> Tensor:
        """(B, num_features); groups are the `support` images that follow each other, the last as many as are left."""
        return self.features_of_groups(torch.split(x, self.support))

    def features_of_groups(self, groups: Sequence[Tensor]) -> Tensor:
        """(B, num_features) of all groups, in one pass."""
        x = torch.cat(list(groups))
        contexts = torch.split(self.context(x), [len(group) for group in groups])
        shared = torch.cat([c.mean(dim=0, keepdim=True).expand_as(c) for c in contexts])
        return super().features(torch.cat([x, shared], dim=1))

    def train(self, mode: bool = True) -> ContextNetwork:
        """As ever, but the batch norm of the context network, which begins untrained, is never frozen."""
        super().train(mode)
        self.context.train(mode)
        return self


class ARM(Algorithm):
    """min over f, c, k of CE(c(f([x, mean over x' of its domain's minibatch of k(x')])), y).

    Zhang, Marklund, Dhawan, Gupta, Levine and Finn, "Adaptive Risk Minimization: Learning to Adapt to Domain Shift",
    NeurIPS 2021, in its form with a context network k (ARM-CML); DomainBed's k: 5 x 5 convolutions to 64, 64 and 1
    channels with batch norm and ReLU between them.

    At prediction the context is the mean over groups of `batch_size` inputs, which a seeded order of the view makes.

    Departures from DomainBed's code: k is trained; a batch that is no multiple of `batch_size` is cut into groups and
    a rest (theirs is then one group); convolutions before batch norm have no bias, which the norm would take out; its
    batch norm is never frozen.
    """

    card = AlgorithmCard(
        paper="Zhang et al., NeurIPS 2021",
        min_domains=2,
        transductive=True,
        rehearsal={"context_width": 4},
        unlike_domainbed="the context network is made after the optimizer and never trained",
        needs=("classes", "images"),
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Defaults and draws are DomainBed's; there `context_width` is fixed."""

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
        """A network for one more channel, and the context network."""
        if len(input_shape) != 3:
            raise UserError(f"ARM adds a channel to images; inputs of shape {tuple(input_shape)} have none")
        channels, height, width = input_shape
        plain = build_network((channels + 1, height, width), num_classes, setting, hparams.resnet_dropout)
        # Images are normalised as for any network; the context, which is not an image's, is not.
        normalisation = normalisation_of(setting.backbone, channels)
        network = ContextNetwork(
            plain.featurizer, plain.num_features, num_classes, setting, plain.dropout.p, normalisation
        )
        network.context = context_net(channels, hparams.context_width).to(memory_format=network.memory_format)
        network.support = hparams.batch_size
        return network

    def loss(self, batches: Sequence[Batch]) -> Tensor:
        """Mean cross-entropy, each minibatch a group; one forward pass."""
        network = self.network
        features = network.dropout(network.features_of_groups([b.x for b in batches]))
        return F.cross_entropy(network.classifier(features), torch.cat([b.y for b in batches]))


def context_net(channels: int, width: int) -> nn.Sequential:
    """Images to one channel of the same size."""
    layers: list[nn.Module] = []
    for width_in in (channels, width):
        layers += [nn.Conv2d(width_in, width, 5, padding=2, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(width, 1, 5, padding=2))
