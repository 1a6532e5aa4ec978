"""Deep CORAL: features have one mean and one covariance in all domains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from dgbench.algorithms._domains import descend_penalised, feature_losses
from dgbench.algorithms._moments import coral
from dgbench.core.cards import AlgorithmCard
from dgbench.core.space import hparam, power
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm, Batch


class CORAL(Algorithm):
    """min of mean_e L_e + gamma * mean over pairs of domains of mean (mu_i - mu_j)^2 + mean (C_i - C_j)^2.

    mu_e and C_e are mean and unbiased covariance of the features of domain e, the means over their entries. Sun and
    Saenko, "Deep CORAL: Correlation Alignment for Deep Domain Adaptation", ECCV Workshops 2016.

    Departures from the paper: the distance of the means is added, covariances are compared between all pairs of
    training domains, and the squared difference is divided by d^2, not 4 d^2; all as in DomainBed. From DomainBed's
    code: none in the numbers, but the covariance of a single example is 0 instead of NaN.
    """

    card = AlgorithmCard(
        paper="Sun and Saenko, ECCV Workshops 2016",
        min_domains=2,
        penalties=("mmd_gamma",),
        needs=("feature_vectors",),
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Default and draw are DomainBed's."""

        mmd_gamma: float = hparam(1.0, power(10, -1, 1), help="weight of the distance between domains")

    hparams: Hparams

    def update(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """One step."""
        features = self.domain_features(batches)
        nll = feature_losses(self, features, batches).mean()
        return descend_penalised(self, nll, coral(features), self.hparams.mmd_gamma)
