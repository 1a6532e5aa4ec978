"""Rationale invariance: what speaks for each class should be the same in all examples of a class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dgbench.algorithms._head import linear_head
from dgbench.core.cards import AlgorithmCard
from dgbench.core.space import hparam, power
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm, Batch


class RIDG(Algorithm):
    """min of L + alpha * sum_c mean_{n in c, k} ||w_k * z_n - M_ck||^2, M_c the running mean of class c's w_k * z_n.

    Chen, Zhang, Song, van den Hengel and Liu, "Domain Generalization via Rationale Invariance", ICCV 2023. w_k * z_n is
    the product, feature by feature, of the classifier's weights for class k and the features of example n. M_c becomes
    the minibatch's mean when class c is first seen and (1 - m) M_c + m * mean later, before the loss; it is constant.

    Departures from the paper, which has two forms that differ in scale: the sum over features and the mean over
    examples and classes k, as in the authors' code (Eq. 3 sums over k too, Algorithm 1 means over features too). From
    that code: one pass through the featurizer serves loss and rationales (theirs are two, with dropout masks of their
    own), and M does not remember the graphs of past steps. The squares are multiplied out, so that only M itself has
    the size of classes x classes x features.
    """

    card = AlgorithmCard(
        paper="Chen et al., ICCV 2023", penalties=("ridg_alpha",), needs=("linear_classifier", "classes")
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Defaults and draws are those of the authors' code."""

        ridg_alpha: float = hparam(0.01, power(10, -2, -1), help="weight of the invariance")
        ridg_momentum: float = hparam(
            0.001, power(10, -4, -1), help="weight of a minibatch in the running means", within="[0, 1]"
        )

    hparams: Hparams
    means: Tensor
    seen: Tensor

    def build(self) -> None:
        """Start without any class seen; refuse a classifier that has no weights for a class."""
        weight = linear_head(self.network, "RIDG").weight.detach()
        self.register_buffer("means", weight.new_zeros(len(weight), *weight.shape))
        self.register_buffer("seen", torch.zeros(len(weight), dtype=torch.bool, device=weight.device))

    def update(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """One step on all domains' examples alike."""
        head = linear_head(self.network, "RIDG")
        y = torch.cat([b.y for b in batches])
        features = self.network.dropout(self.network.features(torch.cat([b.x for b in batches])))
        nll = F.cross_entropy(head(features), y)
        of_class = (y[:, None] == torch.arange(len(self.seen), device=y.device)).to(features.dtype)
        of_class = of_class / of_class.sum(dim=0).clamp(min=1)  # each present class's examples weigh 1 together
        self._remember(head.weight.detach(), features.detach(), of_class)
        distances = self._distances(head.weight, features, y)
        penalty = (distances * of_class.sum(dim=1)).sum() / len(self.seen)
        loss = nll + self.hparams.ridg_alpha * penalty
        self.descend(loss)
        return {"loss": loss.detach(), "nll": nll.detach(), "penalty": penalty.detach()}

    def _remember(self, weight: Tensor, features: Tensor, of_class: Tensor) -> None:
        present = of_class.sum(dim=0) > 0
        now = weight * (of_class.T @ features)[:, None, :]
        share = torch.where(self.seen, self.hparams.ridg_momentum, 1.0).to(now.dtype) * present
        self.means.lerp_(now, share[:, None, None])
        self.seen |= present

    def _distances(self, weight: Tensor, features: Tensor, y: Tensor) -> Tensor:
        """Sum over classes k and features of (w_k * z_n - M_yk)^2, for each example (B,)."""
        squares = features.square() @ weight.square().sum(dim=0)
        products = (features * torch.einsum("kd,ckd->cd", weight, self.means)[y]).sum(dim=1)
        return squares - 2 * products + self.means.square().sum(dim=(1, 2))[y]
