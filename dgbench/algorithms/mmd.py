"""Maximum mean discrepancy: features are distributed alike in all domains, as far as Gaussian kernels can tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from dgbench.algorithms._domains import feature_losses, penalized
from dgbench.algorithms._moments import mmd
from dgbench.core.cards import AlgorithmCard
from dgbench.core.space import hparam, power
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.batch import Batch


class MMD(Algorithm):
    r"""Match the distributions of features between domains by their maximum mean discrepancy.

    $$
    \min_\theta \; \frac1E \sum_e L_e + \frac{\gamma}{\binom{E}{2}} \sum_{i < j} \mathrm{MMD}^2(Z_i, Z_j), \qquad
    k(z, z') = \sum_{g} \exp\big(-g\, \|z - z'\|^2\big)
    $$

    $Z_e$ are the features of domain $e$ and $L_e$ is its loss. $\gamma$ is `mmd_gamma`, and the kernels have
    $g = 10^{-3}, 10^{-2}, \dots, 10^3$.

    Reference:
        Li, Pan, Wang and Kot, "Domain Generalization with Adversarial Feature Learning", CVPR 2018.

    Departures from the paper: there is no autoencoder and no adversary, only the discrepancy, which is squared; as in
    DomainBed.

    Departures from DomainBed's code: the distance of an example to itself is exactly 0, not its rounding error, and
    distances are computed about the mean. With the sharper kernels this matters in single precision.
    """

    card = AlgorithmCard(
        paper="Li et al., CVPR 2018",
        link="https://openaccess.thecvf.com/content_cvpr_2018/html/Li_Domain_Generalization_With_CVPR_2018_paper.html",
        tags=("alignment",),
        min_domains=2,
        penalties=("mmd_gamma",),
        needs=("feature_vectors",),
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Hyperparameters of MMD; default and draw are DomainBed's."""

        mmd_gamma: float = hparam(1.0, power(10, -1, 1), help="weight of the discrepancy between domains")

    hparams: Hparams

    def loss(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """Return the loss and its parts: the domains' losses and the discrepancy of all pairs of them."""
        features = self.domain_features(batches)
        nll = feature_losses(self, features, batches).mean()
        return penalized(nll, mmd(features), self.hparams.mmd_gamma)
