"""Representation self-challenging: train without the features that the network relies on most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dgbench.algorithms._domains import pooled_features
from dgbench.core.cards import AlgorithmCard
from dgbench.core.space import hparam, uniform
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm, Batch


class RSC(Algorithm):
    """min over theta of CE(h(m * z), y); of the examples it hurts most, m mutes the features z that favour y most.

    z are the features of x and h is the classifier. A feature is muted if the derivative of the logit of y by it is at
    or above its 1 - f quantile in the example; an example is, if muting lowers the probability of y by at least its
    1 - b quantile in the minibatch. Huang, Wang, Xing and Huang, "Self-Challenging Improves Cross-Domain
    Generalization", ECCV 2020.

    Departures from the authors' code: features after pooling, where theirs mutes channels or positions of the last
    feature maps; as in DomainBed. From DomainBed's code: at f or b = 0 nothing is muted (there the largest one still
    is); quantiles stay on the device.
    """

    card = AlgorithmCard(paper="Huang et al., ECCV 2020", needs=("classes",))

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Defaults and draws are DomainBed's."""

        rsc_f_drop_factor: float = hparam(
            1 / 3, uniform(0, 0.5), help="share f of an example's features that is muted", within="[0, 1)"
        )
        rsc_b_drop_factor: float = hparam(
            1 / 3, uniform(0, 0.5), help="share b of the examples in which they are", within="[0, 1)"
        )

    hparams: Hparams

    def update(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """One step: one pass through the featurizer, three through the classifier."""
        features, labels = pooled_features(self, batches), torch.cat([b.y for b in batches])
        muted = self._muted(features.detach(), labels)
        loss = F.cross_entropy(self.network.classifier(features.masked_fill(muted, 0)), labels)
        self.descend(loss)
        return {"loss": loss.detach()}

    def _muted(self, features: Tensor, labels: Tensor) -> Tensor:
        """Which features of which examples to mute (N, num_features), bool."""
        classifier = self.network.classifier
        features.requires_grad_()
        logits = classifier(features)
        slopes = torch.autograd.grad(logits.gather(1, labels[:, None]).sum(), features)[0]
        with torch.no_grad():
            muted = _largest(slopes, self.hparams.rsc_f_drop_factor)
            change = logits.softmax(dim=1) - classifier(features.masked_fill(muted, 0)).softmax(dim=1)
            change = change.gather(1, labels[:, None]).squeeze(1)
            return muted & _largest(change, self.hparams.rsc_b_drop_factor)[:, None]


def _largest(values: Tensor, share: float) -> Tensor:
    """Which values are at or above the 1 - share quantile of the last dimension; none if the share is 0."""
    if share == 0:
        return torch.zeros_like(values, dtype=torch.bool)
    return values >= values.quantile(1 - share, dim=-1, keepdim=True)
