"""Causality-based invariant representations: two random mixtures of the domains should have alike features."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dgbench.algorithms._domains import descend_penalised, feature_losses
from dgbench.algorithms._moments import coral, mmd
from dgbench.core.cards import AlgorithmCard
from dgbench.core.space import hparam, power
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm, Batch

_PAPER = "Chevalley et al., arXiv 2022"


def _update(
    method: Algorithm, batches: Sequence[Batch], distance: Callable[[Sequence[Tensor]], Tensor], weight: float
) -> Mapping[str, Tensor]:
    """One step with the distance between two mixtures; none if one of them has fewer than two examples."""
    features = method.domain_features(batches)
    nll = feature_losses(method, features, batches).mean()
    # On the host, so that the sizes of the mixtures are known without waiting for the device.
    cuts = [int(share * len(z)) for share, z in zip(torch.rand(len(features)).tolist(), features, strict=True)]
    first = torch.cat([z[:cut] for z, cut in zip(features, cuts, strict=True)])
    second = torch.cat([z[cut:] for z, cut in zip(features, cuts, strict=True)])
    penalty = distance([first, second]) if min(len(first), len(second)) > 1 else nll.new_zeros(())
    return descend_penalised(method, nll, penalty, weight)


class CausIRL_CORAL(Algorithm):
    """min of mean_e L_e + gamma * CORAL(A, B); A is the first n_e ~ U{0..B_e - 1} features of each domain, B the rest.

    The distance is that of CORAL. Chevalley, Bunne, Krause and Bauer, "Invariant Causal Mechanisms through
    Distribution Matching", arXiv:2206.11646, 2022.

    Departures from DomainBed's code: none in the numbers.
    """

    card = AlgorithmCard(paper=_PAPER, min_domains=2, penalties=("mmd_gamma",), needs=("feature_vectors",))

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Default and draw are DomainBed's."""

        mmd_gamma: float = hparam(1.0, power(10, -1, 1), help="weight of the distance between the mixtures")

    hparams: Hparams

    def update(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """One step."""
        return _update(self, batches, coral, self.hparams.mmd_gamma)


class CausIRL_MMD(Algorithm):
    """min of mean_e L_e + gamma * MMD^2(A, B); A is the first n_e ~ U{0..B_e - 1} features of each domain, B the rest.

    The distance is that of MMD. Chevalley, Bunne, Krause and Bauer, "Invariant Causal Mechanisms through Distribution
    Matching", arXiv:2206.11646, 2022.

    Departures from DomainBed's code: those of MMD.
    """

    card = AlgorithmCard(paper=_PAPER, min_domains=2, penalties=("mmd_gamma",), needs=("feature_vectors",))

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Default and draw are DomainBed's."""

        mmd_gamma: float = hparam(1.0, power(10, -1, 1), help="weight of the discrepancy between the mixtures")

    hparams: Hparams

    def update(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """One step."""
        return _update(self, batches, mmd, self.hparams.mmd_gamma)
