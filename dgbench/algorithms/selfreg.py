"""SelfReg: examples of one class should have one logit vector and one feature vector, whatever their domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Beta
from torch.nn import functional as F

from dgbench.algorithms._domains import pooled_features
from dgbench.core.cards import AlgorithmCard
from dgbench.core.errors import UserError
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.batch import Batch


class SelfReg(Algorithm):
    r"""Pull logits and features of same-class examples together, alone and in mixtures.

    $$
    \min_\theta \; L + \min(L, 1) \big[ \ell\, D(s) + (1 - \ell)\, D(\ell s + (1 - \ell)\, t) \big], \qquad
    D(a) = \mathrm{MSE}(f, a f) + 0.3\, \mathrm{MSE}(z, a\, p(z))
    $$

    $L$ is ERM's loss, $f$ are the logits, $z$ the features and $p(z)$ their image under a projection head. $s$ and $t$
    are random permutations of the minibatch within each class, applied to its rows; $\ell \sim \mathrm{Beta}(1/2, 1/2)$
    is drawn once a step. $\min(L, 1)$ is held constant.

    Reference:
        Kim, Yoo, Park, Kim and Lee, "SelfReg: Self-Supervised Contrastive Regularization for Domain Generalization",
        ICCV 2021.

    Departures from the paper: there is no curriculum over domains, and averages of the weights are rows of their own
    (`SelfReg+SWA` and the like).

    Departures from DomainBed's code: the projection head learns, as in the authors' own code for PACS; permutations are
    drawn for all classes at once.
    """

    card = AlgorithmCard(
        paper="Kim et al., ICCV 2021",
        link="https://arxiv.org/abs/2104.09841",
        tags=("contrastive", "augmentation"),
        unlike_domainbed="never trains the projection head: it stays out of the optimizer",
        draws=True,
        needs=("classes",),
    )

    def build(self) -> None:
        """Create the projection head, of the authors' sizes; raise UserError if a step has a single example."""
        if self.hparams.batch_size * self.task.num_domains < 2:
            raise UserError("SelfReg needs two examples in a step (batch norm in its head): batch_size can't be 1 here")
        width = self.network.num_features
        hidden = width if width == 2048 else 2 * width
        self.head = nn.Sequential(
            nn.Linear(width, hidden),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, width),
            nn.BatchNorm1d(width),
        )

    def loss(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """Return the loss and its parts: the cross-entropy and both contrastive distances."""
        features, labels = pooled_features(self, batches), torch.cat([b.y for b in batches])
        logits, projected = self.network.classifier(features), self.head(features)
        # On the host and in double precision: nothing waits for the device, and a share can't underflow.
        half = torch.full((1,), 0.5, dtype=torch.float64)
        share: float = Beta(half, half, validate_args=False).sample().tolist()[0]
        nll = F.cross_entropy(logits, labels)
        first, second = shuffle_within_classes(labels), shuffle_within_classes(labels)

        def distance(partner: Tensor, projected_partner: Tensor) -> Tensor:
            return F.mse_loss(logits, partner) + 0.3 * F.mse_loss(features, projected_partner)

        alone = distance(logits[first], projected[first])
        mixed = distance(
            share * logits[first] + (1 - share) * logits[second],
            share * projected[first] + (1 - share) * projected[second],
        )
        penalty = nll.detach().clamp_max(1) * (share * alone + (1 - share) * mixed)
        return {"loss": nll + penalty, "nll": nll, "penalty": penalty}


def shuffle_within_classes(labels: Tensor) -> Tensor:
    """Draw a permutation that maps each class to itself, all such permutations being equally likely.

    Args:
        labels: Classes (N,), int64.

    Returns:
        For each example the position of its partner (N,), int64, on the labels' device.
    """
    # A random order, sorted stably by class, lists each class's members shuffled; the same sort of the labels lists
    # their places. The one is written to the other.
    order = torch.randperm(len(labels), device=labels.device)
    shuffled = order[labels[order].argsort(stable=True)]
    return torch.empty_like(shuffled).scatter_(0, labels.argsort(stable=True), shuffled)
