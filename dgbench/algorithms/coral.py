"""Deep CORAL: align the mean and the covariance of the features across the training domains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from dgbench.algorithms._domains import feature_losses, penalized
from dgbench.algorithms._moments import coral
from dgbench.core.cards import AlgorithmCard
from dgbench.core.space import hparam, power
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.batch import Batch


class CORAL(Algorithm):
    r"""Match mean and covariance of the features between all pairs of training domains.

    $$
    \min \; \frac{1}{E} \sum_e L_e + \gamma\, \mathrm{mean}_{i < j} \Big( \frac{1}{d} \|\mu_i - \mu_j\|_2^2
    + \frac{1}{d^2} \|C_i - C_j\|_F^2 \Big)
    $$

    $L_e$ is the loss of domain $e$ of $E$; $\mu_e$ and $C_e$ are the mean and the unbiased covariance of its $d$
    features, after dropout; $\gamma$ is `mmd_gamma`.

    Reference:
        Sun and Saenko, "Deep CORAL: Correlation Alignment for Deep Domain Adaptation", ECCV Workshops 2016.

    Departures from the paper, all as in DomainBed: the distance of the means is added, covariances are compared between
    all pairs of training domains, and the squared difference is divided by $d^2$, not $4 d^2$.

    Departures from DomainBed's code: none in the numbers, but the covariance of a single example is 0 instead of NaN.
    """

    card = AlgorithmCard(
        paper="Sun and Saenko, ECCV Workshops 2016",
        link="https://arxiv.org/abs/1607.01719",
        tags=("alignment",),
        min_domains=2,
        penalties=("mmd_gamma",),
        needs=("feature_vectors",),
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Hyperparameters of CORAL; default and draw are DomainBed's."""

        mmd_gamma: float = hparam(1.0, power(10, -1, 1), help="weight of the distance between domains")

    hparams: Hparams

    def loss(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """Return the loss and its parts, from one forward pass."""
        features = self.domain_features(batches)
        nll = feature_losses(self, features, batches).mean()
        return penalized(nll, coral(features), self.hparams.mmd_gamma)
