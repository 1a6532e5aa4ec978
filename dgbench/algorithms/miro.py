"""MIRO: features that tell as much as possible of what the pretrained network saw."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dgbench.algorithms._stages import through_stages
from dgbench.core.cards import AlgorithmCard
from dgbench.core.space import hparam
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm, Batch
from dgbench.networks.network import Network

_EPS = 1e-5
_INITIAL_VARIANCE = 0.1


class MIRO(Algorithm):
    """min of L + ld * sum over stages of mean [(f - f0)^2 / s^2 + log s^2] / 2, f0 of the initial network, s^2 learnt.

    Cha, Lee, Park and Chun, "Domain Generalization by Mutual-Information Regularization with Pre-trained Models", ECCV
    2022. f and f0 are a stage's outputs on the same inputs; the mean is over all their elements. s^2 = softplus(b) +
    1e-5, a number a channel, 0.1 at first, with a learning rate `lr_mult` times the network's.

    Departures from the authors' code: the stages are those of the network at hand, stem first, so networks other than
    their ResNet and RegNet work too, unpretrained ones included (f0 is then that of the random initial weights). The
    paper's encoder of the mean is the identity, as there.
    """

    card = AlgorithmCard(paper="Cha et al., ECCV 2022", forwards=2.0, penalties=("ld",), needs=("stages",))

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """`ld` is the authors' for each data set."""

        ld: float = hparam(
            0.1,
            help="weight of the distance to the initial network",
            variants={"PACS": (0.01, None), "VLCS": (0.01, None)},
        )
        lr_mult: float = hparam(10.0, help="learning rate of the variances, in that of the network", within="[0, inf)")

    hparams: Hparams

    def build(self) -> None:
        """Keep the initial network, and start a variance for each channel of each stage."""
        self.initial = copy.deepcopy(self.network).requires_grad_(False)
        self.initial.freeze("featurizer")
        device = next(self.network.buffers()).device
        with torch.no_grad():
            _, maps = staged(self.initial, torch.zeros(1, *self.task.input_shape, device=device))
        start = torch.tensor(_INITIAL_VARIANCE - _EPS, device=device).expm1().log()
        self.spreads = nn.ParameterList([start.expand(x.shape[_channel_axis(x)]).clone() for x in maps])

    def build_optimizers(self) -> None:
        """One optimizer, in which the variances have a learning rate of their own."""
        groups: list[dict[str, Any]] = [
            {"params": self.network.parameters()},
            {"params": self.spreads.parameters(), "lr": self.hparams.lr_mult * self.hparams.lr},
        ]
        self.optimizer = self.new_optimizer(groups)

    def update(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """One step, for two forward passes, one of them without gradient."""
        x, y = torch.cat([b.x for b in batches]), torch.cat([b.y for b in batches])
        with torch.no_grad():
            _, old = staged(self.initial, x)
        features, new = staged(self.network, x)
        nll = self.criterion(self.network.classifier(self.network.dropout(features)), y)
        terms = [_distance(f, f0, b) for f, f0, b in zip(new, old, self.spreads, strict=True)]
        penalty = torch.stack(terms).sum()
        loss = nll + self.hparams.ld * penalty
        self.descend(loss)
        return {"loss": loss.detach(), "nll": nll.detach(), "penalty": penalty.detach()}


def staged(network: Network, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The features, and what each stage put out on the way, in their order."""
    maps: dict[int, Tensor] = {}

    def keep(i: int, stage: Tensor) -> None:
        maps[i] = stage

    with through_stages(network, keep):
        features = network.features(x)
    return features, [maps[i] for i in range(len(maps))]


def _channel_axis(x: Tensor) -> int:
    """Feature maps are (B, C, H, W), tokens (B, tokens, C), vectors (B, C)."""
    return 1 if x.dim() == 4 else -1


def _distance(new: Tensor, old: Tensor, spread: Tensor) -> Tensor:
    variance = F.softplus(spread) + _EPS
    axis = _channel_axis(new) % new.dim()
    others = [i for i in range(new.dim()) if i != axis]
    squares = (new.to(variance.dtype) - old.to(variance.dtype)).square().mean(dim=others)  # (C,)
    return (squares / variance + variance.log()).mean() / 2
