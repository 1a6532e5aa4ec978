"""Rationale invariance: the evidence for each class should be the same in all examples of a class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dgbench.algorithms._domains import penalized
from dgbench.algorithms._head import linear_head
from dgbench.core.cards import AlgorithmCard
from dgbench.core.space import hparam, power
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.batch import Batch


class RIDG(Algorithm):
    r"""Hold each feature's contribution to each logit close to its running mean for the class.

    $$
    \min_\theta \; L + \alpha \sum_c \mathop{\mathrm{mean}}_{n \in c,\; k} \big\| w_k \odot z_n - M_{ck} \big\|^2,
    \qquad M_{ck} \leftarrow (1 - m)\, M_{ck} + m \mathop{\mathrm{mean}}_{n \in c}\, w_k \odot z_n
    $$

    $L$ is ERM's loss. $w_k \odot z_n$ is the elementwise product of the classifier's weights for class $k$ and the
    features of example $n$: its rationale. $M_c$ is the running mean of the rationales of class $c$: the minibatch's
    mean when the class is first seen, updated as above before each later loss, and constant in it. $\alpha$ is
    `ridg_alpha` and $m$ is `ridg_momentum`.

    Reference:
        Chen, Zhang, Song, van den Hengel and Liu, "Domain Generalization via Rationale Invariance", ICCV 2023.

    Departures from the paper: the penalty sums over features and averages over examples and classes $k$, as in the
    authors' code. The paper has two other forms, which differ in scale: its Equation 3 sums over $k$ too, its Algorithm
    1 averages over features too.

    Departures from the authors' code: one pass through the featurizer serves loss and rationales; theirs makes two,
    with different dropout masks. $M$ does not remember the graphs of past steps. The squares are multiplied out, so
    that only $M$ itself has the size of classes × classes × features.

    DomainBed: has no RIDG.
    """

    card = AlgorithmCard(
        paper="Chen et al., ICCV 2023",
        link="https://arxiv.org/abs/2308.11158",
        tags=("regularization", "invariance"),
        penalties=("ridg_alpha",),
        needs=("linear_classifier", "classes"),
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Hyperparameters of RIDG; defaults and draws are those of the authors' code."""

        ridg_alpha: float = hparam(0.01, power(10, -2, -1), help="weight of the invariance")
        ridg_momentum: float = hparam(
            0.001, power(10, -4, -1), help="weight of a minibatch in the running means", within="[0, 1]"
        )

    hparams: Hparams
    means: Tensor
    seen: Tensor

    def build(self) -> None:
        """Start with no class seen; raise UserError if the classifier is not linear."""
        weight = linear_head(self.network, "RIDG").weight.detach()
        self.register_buffer("means", weight.new_zeros(len(weight), *weight.shape))
        self.register_buffer("seen", torch.zeros(len(weight), dtype=torch.bool, device=weight.device))

    def loss(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """Return the loss and its parts, over the examples of all domains alike."""
        head = linear_head(self.network, "RIDG")
        y = torch.cat([b.y for b in batches])
        features = self.network.dropout(self.network.features(torch.cat([b.x for b in batches])))
        nll = F.cross_entropy(head(features), y)
        of_class = (y[:, None] == torch.arange(len(self.seen), device=y.device)).to(features.dtype)
        of_class = of_class / of_class.sum(dim=0).clamp(min=1)  # each present class's examples weigh 1 together
        means = self._moved_means(head.weight.detach(), features.detach(), of_class)
        distances = _distances(head.weight, means, features, y)
        penalty = (distances * of_class.sum(dim=1)).sum() / len(self.seen)
        return penalized(nll, penalty, self.hparams.ridg_alpha)

    def _moved_means(self, weight: Tensor, features: Tensor, of_class: Tensor) -> Tensor:
        """Return the classes' means after this minibatch, which are kept at the end of the step.

        Args:
            weight: Of the classifier (classes, num_features).
            features: (B, num_features).
            of_class: (B, classes), the weight of each example in its class; the column of a present class sums to 1.
        """
        present = of_class.sum(dim=0) > 0
        now = weight * (of_class.T @ features)[:, None, :]
        # 1 for a class that is seen for the first time, whose mean is then the minibatch's; 0 for absent classes.
        share = torch.where(self.seen, self.hparams.ridg_momentum, 1.0).to(now.dtype) * present
        means = self.means.lerp(now, share[:, None, None])
        self.defer(lambda: self._keep(means, present))
        return means

    def _keep(self, means: Tensor, present: Tensor) -> None:
        self.means.copy_(means)
        self.seen |= present


def _distances(weight: Tensor, means: Tensor, features: Tensor, y: Tensor) -> Tensor:
    """Return for each example (B,) the sum over classes k and features of (w_k * z_n - M_yk)^2."""
    # (w z - M)^2 = (w z)^2 - 2 w z M + M^2, summed term by term: no tensor of examples x classes x features is made.
    squares = features.square() @ weight.square().sum(dim=0)
    products = (features * torch.einsum("kd,ckd->cd", weight, means)[y]).sum(dim=1)
    return squares - 2 * products + means.square().sum(dim=(1, 2))[y]
