"""Representation self-challenging: train without the features that the network relies on most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dgbench.algorithms._domains import pooled_features
from dgbench.core.cards import AlgorithmCard
from dgbench.core.space import hparam, uniform
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.batch import Batch


class RSC(Algorithm):
    r"""Mute the features that favor the right class most, in the examples that this hurts most.

    $$
    \min_\theta \; \mathrm{CE}\big(h(m \odot z),\, y\big)
    $$

    $z$ are the features of $x$, $h$ is the classifier and $m$ a mask of 0 and 1. A feature is muted if the derivative
    of the logit of $y$ by it is at or above its $1 - f$ quantile in the example. The example is muted at all if this
    lowers the probability of $y$ by at least the $1 - b$ quantile of that change in the minibatch. $f$ is
    `rsc_f_drop_factor` and $b$ is `rsc_b_drop_factor`.

    Reference:
        Huang, Wang, Xing and Huang, "Self-Challenging Improves Cross-Domain Generalization", ECCV 2020.

    Departures from the authors' code: features are muted after pooling, as in DomainBed; theirs mutes channels or
    positions of the last feature maps.

    Departures from DomainBed's code: with $f = 0$ or $b = 0$ nothing is muted; there, the largest one still is.
    Quantiles stay on the device.
    """

    card = AlgorithmCard(
        paper="Huang et al., ECCV 2020",
        link="https://arxiv.org/abs/2007.02454",
        tags=("regularization",),
        needs=("classes",),
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Hyperparameters of RSC; defaults and draws are DomainBed's."""

        rsc_f_drop_factor: float = hparam(
            1 / 3, uniform(0, 0.5), help="share f of an example's features that is muted", within="[0, 1)"
        )
        rsc_b_drop_factor: float = hparam(
            1 / 3, uniform(0, 0.5), help="share b of the examples in which features are muted", within="[0, 1)"
        )

    hparams: Hparams

    def loss(self, batches: Sequence[Batch]) -> Tensor:
        """Return the loss with muted features, for one pass through the featurizer and three through the classifier."""
        features, labels = pooled_features(self, batches), torch.cat([b.y for b in batches])
        muted = self._muted(features.detach(), labels)
        return F.cross_entropy(self.network.classifier(features.masked_fill(muted, 0)), labels)

    def _muted(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the mask (N, num_features), bool, of the features to mute."""
        classifier = self.network.classifier
        # `features` are detached: this derivative goes no further than the classifier.
        features.requires_grad_()
        logits = classifier(features)
        slopes = torch.autograd.grad(logits.gather(1, labels[:, None]).sum(), features)[0]
        with torch.no_grad():
            muted = _mark_largest(slopes, self.hparams.rsc_f_drop_factor)
            change = logits.softmax(dim=1) - classifier(features.masked_fill(muted, 0)).softmax(dim=1)
            change = change.gather(1, labels[:, None]).squeeze(1)
            return muted & _mark_largest(change, self.hparams.rsc_b_drop_factor)[:, None]


def _mark_largest(values: Tensor, share: float) -> Tensor:
    """Mark the values at or above the 1 - share quantile of the last dimension; none if the share is 0."""
    if share == 0:
        return torch.zeros_like(values, dtype=torch.bool)
    return values >= values.quantile(1 - share, dim=-1, keepdim=True)
