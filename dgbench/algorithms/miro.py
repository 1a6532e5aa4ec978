"""MIRO: keep features informative about those of the pretrained network."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dgbench.algorithms._domains import penalized
from dgbench.algorithms._stages import NOT_SPLIT, replace_outputs
from dgbench.core.cards import AlgorithmCard
from dgbench.core.space import hparam
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.batch import Batch
from dgbench.networks.network import Network
from dgbench.networks.norms import batch_norms, frozen_batch_norm_statistics

_EPS = 1e-5
_INITIAL_VARIANCE = 0.1
_STEMS = ("maxpool", "stem", "patch_embed")
"""Names in timm of the last module before the stages: of ResNets, of networks with one stem module, of transformers."""


class MIRO(Algorithm):
    r"""Keep each stage's output close to that of the initial network, with a learned variance per channel.

    $$
    \min_{\theta, b} \; L + \lambda \sum_l \tfrac12\, \mathrm{mean}\Big[\frac{(f_l - f^0_l)^2}{s_l^2} + \log s_l^2\Big],
    \quad s_l^2 = \mathrm{softplus}(b_l) + 10^{-5}
    $$

    $L$ is ERM's loss and $\lambda$ is `ld`. $f_l$ and $f^0_l$ are the outputs of stage $l$ of the network and of its
    frozen initial copy on the same inputs; the mean is over all their elements. $s_l^2$ has one number for each
    channel, starts at 0.1 and learns at `lr_mult` times the network's learning rate. The encoder of the paper's mean is
    the identity, as in the authors' code.

    The five stages are those of the authors' code: the stem (with its pooling, in ResNets) and the four stages after
    it; in a transformer, whose blocks are alike, the patch embedding and the ends of the quarters of the blocks.

    Reference:
        Cha, Lee, Park and Chun, "Domain Generalization by Mutual-Information Regularization with Pre-trained Models",
        ECCV 2022.

    Departures from the authors' code: networks other than their ResNets, RegNet and ViT work too, by the stages that
    timm lists (EfficientNets), by a language model's layers, taken like a transformer's blocks, or by each layer (our
    small networks). Unpretrained networks work as well; $f^0$ is then that of the random initial weights. Where batch
    norm is live, which it never is in their code, the frozen copy normalizes by the minibatch as the network does.

    DomainBed: has no MIRO.
    """

    card = AlgorithmCard(
        paper="Cha et al., ECCV 2022",
        link="https://arxiv.org/abs/2203.10789",
        tags=("regularization", "pretraining"),
        forwards=2.0,
        penalties=("ld",),
        needs=("stages", NOT_SPLIT),
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Hyperparameters of MIRO; `ld` is the authors' for each data set."""

        ld: float = hparam(
            0.1,
            help="weight of the distance to the initial network",
            variants={"PACS": (0.01, None), "VLCS": (0.01, None)},
        )
        lr_mult: float = hparam(
            10.0, help="learning rate of the variances, as a multiple of the network's", within="[0, inf)"
        )

    hparams: Hparams

    def build(self) -> None:
        """Copy the initial network, and start a variance for each channel of each stage."""
        self.initial = copy.deepcopy(self.network).requires_grad_(False)
        self.initial.freeze("featurizer")
        device = next(self.network.buffers()).device
        with torch.no_grad():
            _, maps = staged(self.initial, torch.zeros(1, *self.task.input_shape, device=device))
        # The inverse of softplus, so that the variances begin at _INITIAL_VARIANCE.
        start = torch.tensor(_INITIAL_VARIANCE - _EPS, device=device).expm1().log()
        self.spreads = nn.ParameterList([start.expand(x.shape[_channel_axis(x)]).clone() for x in maps])

    def build_optimizers(self) -> None:
        """Create one optimizer, in which the variances have a learning rate of their own."""
        groups: list[dict[str, Any]] = [
            {"params": self.network.parameters()},
            {"params": self.spreads.parameters(), "lr": self.hparams.lr_mult * self.hparams.lr},
        ]
        self.optimizer = self.new_optimizer(groups)

    def loss(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """Return the loss and its parts, from two forward passes, one of them without a gradient."""
        x, y = torch.cat([b.x for b in batches]), torch.cat([b.y for b in batches])
        # The same mode of batch norm on both sides: a network that has not moved must be at distance 0 from its copy.
        for norm, own in zip(batch_norms(self.initial), batch_norms(self.network), strict=True):
            norm.train(own.training)
        with torch.no_grad(), frozen_batch_norm_statistics(self.initial):
            _, old = staged(self.initial, x)
        features, new = staged(self.network, x)
        nll = self.criterion(self.network.classifier(self.network.dropout(features)), y)
        terms = [_distance(f, f0, b) for f, f0, b in zip(new, old, self.spreads, strict=True)]
        penalty = torch.stack(terms).sum()
        return penalized(nll, penalty, self.hparams.ld)


def staged(network: Network, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return the features and, in order, the outputs of the `hooked` modules on the way to them.

    Args:
        network: A network whose stages are known.
        x: Inputs (B, ...).

    Returns:
        Features (B, num_features), and a list of feature maps (B, C, H, W), tokens (B, tokens, C) or vectors (B, C).
    """
    maps: dict[int, Tensor] = {}

    def keep(i: int, stage: Tensor) -> None:
        maps[i] = stage

    with replace_outputs(hooked(network), keep):
        features = network.features(x)
    # Some patch embeddings give (B, H, W, C): flattened, these are tokens like those of the later blocks.
    if maps[0].dim() == 4 and maps[len(maps) - 1].dim() == 3:
        width = maps[len(maps) - 1].shape[2]
        maps[0] = maps[0].flatten(1, 2) if maps[0].shape[3] == width else maps[0]
    return features, [maps[i] for i in range(len(maps))]


def hooked(network: Network) -> list[nn.Module]:
    """Return the modules whose outputs are compared: a stem and four stages, where the network has these."""
    stages, featurizer = network.stages, network.featurizer
    infos: Any = getattr(featurizer, "feature_info", None)
    if infos is None:
        return stages
    blocks_alike = len({(info.get("num_chs"), info.get("reduction")) for info in infos}) == 1
    if blocks_alike and len(stages) > 4:
        stages = [stages[math.ceil(len(stages) * quarter / 4) - 1] for quarter in range(1, 5)]
    children = dict(featurizer.named_children())
    name = next((name for name in _STEMS if name in children), "")
    if not name:
        tokens = [part for part in featurizer.modules() if isinstance(part, nn.Embedding)]
        return [*tokens[:1], *stages] if blocks_alike else stages
    order, first = list(children), infos[0]["module"].partition(".")[0]
    if order.index(name) >= order.index(first):
        return [children[name], *stages[1:]]
    return [children[name], *stages] if blocks_alike or len(stages) == 4 else stages


def _channel_axis(x: Tensor) -> int:
    """Return the axis of the channels: 1 in maps (B, C, H, W), the last in tokens (B, tokens, C) and vectors (B, C)."""
    return 1 if x.dim() == 4 else -1


def _distance(new: Tensor, old: Tensor, spread: Tensor) -> Tensor:
    variance = F.softplus(spread) + _EPS
    axis = _channel_axis(new) % new.dim()
    others = [i for i in range(new.dim()) if i != axis]
    # In the variances' dtype, float32 also under bf16: squares of small differences would vanish.
    squares = (new.to(variance.dtype) - old.to(variance.dtype)).square().mean(dim=others)  # (C,)
    return (squares / variance + variance.log()).mean() / 2
