"""AND-mask: a coordinate of the gradient counts only if the domains agree on its sign."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from dgbench.algorithms._gradients import agreement, of_each_domain, step_masked
from dgbench.core.cards import AlgorithmCard
from dgbench.core.space import hparam, uniform
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm, Batch


class ANDMask(Algorithm):
    """step along m * mean_e g_e / mean(m), m = 1 where |mean_e sign(g_e)| >= tau, else 0; mean(m) for each tensor.

    g_e is the gradient of the loss of domain e. Parascandolo, Neitz, Orvieto, Gresele and Schoelkopf, "Learning
    Explanations That Are Hard to Vary", ICLR 2021.

    Departures from the authors' code and from DomainBed's: none in the numbers but for 1e-10 added to mean(m), where
    ours is a lower bound; signs are counted exactly, so that rounding can't decide at the threshold.
    """

    card = AlgorithmCard(paper="Parascandolo et al., ICLR 2021", min_domains=2)

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Default and draw are DomainBed's."""

        tau: float = hparam(
            1.0, uniform(0.5, 1), help="agreement from which a coordinate counts; 1 is all domains", within="[0, 1]"
        )

    hparams: Hparams

    def update(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """One step, with a forward and a backward pass for each domain through its own rows."""
        losses, parameters, gradients = of_each_domain(self, batches)
        masks = [(agreement(g) >= self.hparams.tau * len(batches)).to(g.dtype) for g in gradients]
        return step_masked(self, losses, parameters, gradients, masks)
