"""Maximum mean discrepancy: features are distributed alike in all domains, as far as Gaussian kernels can tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from dgbench.algorithms._domains import descend_penalised, feature_losses
from dgbench.algorithms._moments import mmd
from dgbench.core.cards import AlgorithmCard
from dgbench.core.space import hparam, power
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm, Batch


class MMD(Algorithm):
    """min of mean_e L_e + gamma * mean over pairs of domains of MMD^2(Z_i, Z_j), kernel sum_g exp(-g ||z - z'||^2).

    Z_e are the features of domain e, and g is 10^-3, 10^-2, ..., 10^3. Li, Pan, Wang and Kot, "Domain Generalization
    with Adversarial Feature Learning", CVPR 2018.

    Departures from the paper: as in DomainBed there is no autoencoder and no adversary, only the discrepancy, which is
    squared. From DomainBed's code: an example's distance to itself is exactly 0, not what rounding leaves of it, and
    distances are computed about the mean; at the sharper kernels that matters in single precision.
    """

    card = AlgorithmCard(
        paper="Li et al., CVPR 2018", min_domains=2, penalties=("mmd_gamma",), needs=("feature_vectors",)
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Default and draw are DomainBed's."""

        mmd_gamma: float = hparam(1.0, power(10, -1, 1), help="weight of the discrepancy between domains")

    hparams: Hparams

    def update(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """One step."""
        features = self.domain_features(batches)
        nll = feature_losses(self, features, batches).mean()
        return descend_penalised(self, nll, mmd(features), self.hparams.mmd_gamma)
