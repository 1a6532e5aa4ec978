"""Causality-based invariant representations (CausIRL): align the features of two random mixtures of the domains."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dgbench.algorithms._domains import feature_losses, penalized
from dgbench.algorithms._moments import coral, mmd
from dgbench.core.cards import AlgorithmCard
from dgbench.core.space import hparam, power
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.batch import Batch

_PAPER = "Chevalley et al., arXiv 2022"


def _loss(
    method: Algorithm, batches: Sequence[Batch], distance: Callable[[Sequence[Tensor]], Tensor], weight: float
) -> Mapping[str, Tensor]:
    """Return the parts of a loss with the distance between two mixtures, 0 if one has fewer than two examples."""
    features = method.domain_features(batches)
    nll = feature_losses(method, features, batches).mean()
    # On the host, so that the sizes of the mixtures are known without waiting for the device.
    cuts = [int(share * len(z)) for share, z in zip(torch.rand(len(features)).tolist(), features, strict=True)]
    first = torch.cat([z[:cut] for z, cut in zip(features, cuts, strict=True)])
    second = torch.cat([z[cut:] for z, cut in zip(features, cuts, strict=True)])
    penalty = distance([first, second]) if min(len(first), len(second)) > 1 else nll.new_zeros(())
    return penalized(nll, penalty, weight)


class CausIRL_CORAL(Algorithm):
    r"""Match mean and covariance of the features between two random mixtures of the domains.

    $$
    \min \; \frac{1}{E} \sum_e L_e + \gamma\, \mathrm{CORAL}(A, B)
    $$

    $L_e$ is the loss of domain $e$ of $E$ and $\gamma$ is `mmd_gamma`. $A$ has the features of the first $n_e$ examples
    of each domain's minibatch, with $n_e$ uniform in $\{0, \dots, B_e - 1\}$ for a minibatch of $B_e$; $B$ has all
    others. The distance is that of CORAL.

    Reference:
        Chevalley, Bunne, Krause and Bauer, "Invariant Causal Mechanisms through Distribution Matching",
        arXiv:2206.11646, 2022.

    Departures from DomainBed's code: none in the numbers.
    """

    card = AlgorithmCard(
        paper=_PAPER,
        link="https://arxiv.org/abs/2206.11646",
        tags=("alignment", "invariance"),
        min_domains=2,
        penalties=("mmd_gamma",),
        draws=True,
        needs=("feature_vectors",),
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Hyperparameters of CausIRL_CORAL; default and draw are DomainBed's."""

        mmd_gamma: float = hparam(1.0, power(10, -1, 1), help="weight of the distance between the mixtures")

    hparams: Hparams

    def loss(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """Return the loss and its parts, from one forward pass."""
        return _loss(self, batches, coral, self.hparams.mmd_gamma)


class CausIRL_MMD(Algorithm):
    r"""Match the distribution of the features, by Gaussian kernels, between two random mixtures of the domains.

    $$
    \min \; \frac{1}{E} \sum_e L_e + \gamma\, \mathrm{MMD}^2(A, B)
    $$

    $L_e$ is the loss of domain $e$ of $E$ and $\gamma$ is `mmd_gamma`. $A$ has the features of the first $n_e$ examples
    of each domain's minibatch, with $n_e$ uniform in $\{0, \dots, B_e - 1\}$ for a minibatch of $B_e$; $B$ has all
    others. The distance is that of MMD.

    Reference:
        Chevalley, Bunne, Krause and Bauer, "Invariant Causal Mechanisms through Distribution Matching",
        arXiv:2206.11646, 2022.

    Departures from DomainBed's code: those of MMD.
    """

    card = AlgorithmCard(
        paper=_PAPER,
        link="https://arxiv.org/abs/2206.11646",
        tags=("alignment", "invariance"),
        min_domains=2,
        penalties=("mmd_gamma",),
        draws=True,
        needs=("feature_vectors",),
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Hyperparameters of CausIRL_MMD; default and draw are DomainBed's."""

        mmd_gamma: float = hparam(1.0, power(10, -1, 1), help="weight of the discrepancy between the mixtures")

    hparams: Hparams

    def loss(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """Return the loss and its parts, from one forward pass."""
        return _loss(self, batches, mmd, self.hparams.mmd_gamma)
