"""AND-mask: keep a coordinate of the gradient only where the training domains agree on its sign."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from dgbench.algorithms._gradients import agreement, of_each_domain, step_masked
from dgbench.core.cards import AlgorithmCard
from dgbench.core.space import hparam, uniform
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.batch import Batch


class ANDMask(Algorithm):
    r"""Zero the coordinates of the gradient on whose sign too few domains agree.

    $$
    \theta \leftarrow \mathrm{opt}\Big(\theta,\; \frac{m \odot \bar g}{\mathrm{mean}(m)}\Big), \qquad
    \bar g = \frac{1}{E} \sum_e g_e, \qquad
    m = \mathbb{1}\Big[\, \Big| \frac{1}{E} \sum_e \mathrm{sign}(g_e) \Big| \ge \tau \Big]
    $$

    $g_e$ is the gradient of the loss of domain $e$ of $E$. The mean of the mask is taken for each parameter tensor.

    Reference:
        Parascandolo, Neitz, Orvieto, Gresele and Schoelkopf, "Learning Explanations That Are Hard to Vary", ICLR 2021.

    Departures from the authors' code and from DomainBed's: none in the numbers but for the 1e-10 that both add to
    $\mathrm{mean}(m)$, which is its lower bound in this implementation; signs are counted exactly, so that rounding
    can't decide at the threshold.
    """

    card = AlgorithmCard(
        paper="Parascandolo et al., ICLR 2021",
        link="https://arxiv.org/abs/2009.00329",
        tags=("gradient-matching", "invariance"),
        min_domains=2,
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Hyperparameters of ANDMask; default and draw are DomainBed's."""

        tau: float = hparam(
            1.0, uniform(0.5, 1), help="agreement from which a coordinate counts; 1 is all domains", within="[0, 1]"
        )

    hparams: Hparams

    def update(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """Take one step, with a forward and a backward pass for each domain through its own rows."""
        losses, parameters, gradients = of_each_domain(self, batches)
        # `agreement` is a sum over domains, so the threshold is multiplied instead of the sum divided.
        masks = [(agreement(g) >= self.hparams.tau * len(batches)).to(g.dtype) for g in gradients]
        return step_masked(self, losses, parameters, gradients, masks)
