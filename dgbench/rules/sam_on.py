"""SAM-ON: sharpness-aware minimization that displaces the normalization layers alone."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dgbench.core.composition import RuleCard
from dgbench.core.needs import Need
from dgbench.core.space import hparam
from dgbench.methods import algorithm
from dgbench.methods.ascent import scale_to_length
from dgbench.methods.rule import Rule
from dgbench.rules._norms import LEARNING_NORMS, affine


class SAMON(Rule):
    r"""Minimize the worst loss when only the parameters of the normalization layers are displaced.

    $$
    \min_\theta \; L(\theta + \epsilon), \qquad \epsilon_S = \frac{\rho\, g_S}{\|g_S\|_2 + 10^{-16}}, \quad
    \epsilon = 0 \text{ outside of } S, \quad g = \nabla_\theta L(\theta)
    $$

    $L$ is the loss. $S$ are the parameters of normalization layers, timm's own included: scales, shifts, and the
    further parameters of an EvoNorm. All parameters take the step down. A network without such layers (the MLP), or
    with all of them frozen, is refused.

    Reference:
        Mueller, Vlaar, Rolnick and Hein, "Normalization Layers Are All That Sharpness-Aware Minimization Needs",
        NeurIPS 2023.

    Departures from the authors' code:

    - Layers are recognized by their type. Theirs looks for "bn" or "norm" in names, which misses the batch norm on the
      shortcuts of a torchvision ResNet.
    - The adaptive variant is `ASAM` with `displaced=norms`, GSAM's is `GSAM` with it.
    - In the second pass live batch norm leaves its statistics alone; in theirs they move in both passes.

    DomainBed: has no SAM-ON.
    """

    card = RuleCard(
        paper="Mueller et al., NeurIPS 2023",
        link="https://arxiv.org/abs/2306.04226",
        tags=("flat-minima",),
        forwards=2.0,
        backwards=2.0,
        penalties=("rho",),
        needs=("norm", "learning_features", Need("full_weights", why=LEARNING_NORMS)),
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Hyperparameters of SAM-ON; the default is that of the authors' command line.

        Few parameters need a larger radius than all of them do.
        """

        rho: float = hparam(0.5, help="length of the step uphill", within="[0, inf)")

    hparams: Hparams

    def climbing(self) -> list[Tensor]:
        """Return the parameters of the normalization layers that learn."""
        return affine(self)

    def displacement(self, parameters: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        """Return the step uphill."""
        return scale_to_length(gradients, self.hparams.rho, eps=1e-16)
