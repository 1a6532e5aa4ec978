"""Adaptive SAM (ASAM): SAM in a ball scaled by the weights' own sizes, so that rescaling layers changes nothing."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dgbench.core.composition import RuleCard
from dgbench.core.space import hparam
from dgbench.methods.ascent import adaptive_scales, scale_to_adaptive_length
from dgbench.rules._norms import NEEDS_OF_NORMS, SomeDisplaced


class ASAM(SomeDisplaced):
    r"""Minimize the worst loss within a neighborhood of the weights that scales with their sizes.

    $$
    \min_\theta L(\theta + \epsilon), \qquad
    \epsilon = \rho\, \frac{T^2 g}{\|T g\|_2 + 10^{-16}}, \qquad
    T = \begin{cases} |\theta| + \eta & \text{for weights} \\ 1 & \text{for other parameters} \end{cases}
    $$

    $L$ is the loss and $g = \nabla L(\theta)$. Products are elementwise and the norm is over all parameters. As in
    the authors' code, weights are the parameters with "weight" in their names: convolutions, linear layers and the
    scales of normalization layers; biases, tokens and positional embeddings are not scaled.

    Reference:
        Kwon, Kim, Park and Choi, "ASAM: Adaptive Sharpness-Aware Minimization for Scale-Invariant Learning of Deep
        Neural Networks", ICML 2021.

    Departures from the authors' code: in the second pass live batch norm leaves its statistics alone (theirs move in
    both); weights are copied back.

    DomainBed: has no ASAM.
    """

    card = RuleCard(
        paper="Kwon et al., ICML 2021",
        link="https://arxiv.org/abs/2102.11600",
        tags=("flat-minima",),
        forwards=2.0,
        backwards=2.0,
        needs=NEEDS_OF_NORMS,
        penalties=("rho",),
    )

    @dataclass(frozen=True)
    class Hparams(SomeDisplaced.Hparams):
        """Hyperparameters of ASAM; defaults are those of the authors' optimizer and of their CIFAR-10.

        Ten times SAM's radius is usual.
        """

        rho: float = hparam(
            0.5, help="length of the step uphill, relative to the sizes of the weights", within="[0, inf)"
        )
        eta: float = hparam(
            0.01, help="added to the size of each weight, so that small ones move too", within="[0, inf)"
        )

    hparams: Hparams

    def displacement(self, parameters: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        """Return the step uphill, scaled by the sizes of the weights."""
        scales = adaptive_scales(self, parameters, self.hparams.eta)
        return scale_to_adaptive_length(gradients, scales, self.hparams.rho)
