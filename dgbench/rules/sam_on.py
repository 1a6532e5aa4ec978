"""SAM-ON: sharpness-aware minimization that displaces the normalization layers alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dgbench.core.composition import RuleCard
from dgbench.core.errors import UserError
from dgbench.core.space import hparam
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Batch
from dgbench.methods.ascent import gradient, scale_to_length
from dgbench.methods.rule import First, Rule
from dgbench.networks.norms import norms


class SAMON(Rule):
    r"""Minimize the worst loss when only the parameters of the normalization layers are displaced.

    $$
    \min_\theta \; L(\theta + \epsilon), \qquad \epsilon_S = \frac{\rho\, g_S}{\|g_S\|_2 + 10^{-16}}, \quad
    \epsilon = 0 \text{ outside of } S, \quad g = \nabla_\theta L(\theta)
    $$

    $L$ is ERM's loss. $S$ are the parameters of normalization layers, timm's own included: scales, shifts, and the
    further parameters of an EvoNorm. All parameters take the step down. A network without such layers (the MLP), or
    with all of them frozen, is refused.

    Reference:
        Mueller, Vlaar, Rolnick and Hein, "Normalization Layers Are All That Sharpness-Aware Minimization Needs",
        NeurIPS 2023.

    Departures from the authors' code:

    - Layers are recognized by their type. Theirs looks for "bn" or "norm" in names, which misses the batch norm on the
      shortcuts of a torchvision ResNet.
    - There are no adaptive variants (ASAM-ON).
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
        needs=("norm", "learning_features"),
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Hyperparameters of SAM-ON; the default is that of the authors' command line.

        Few parameters need a larger radius than all of them do.
        """

        rho: float = hparam(0.5, help="length of the step uphill", within="[0, inf)")

    hparams: Hparams

    def first_pass(self, batches: Sequence[Batch]) -> First:
        """Evaluate the loss, and its gradient by the affine parameters of the normalization layers."""
        parts = self.objective(batches)
        return First(parts, *gradient(parts["loss"], self._affine()))

    def displacement(self, parameters: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        """Return the step uphill of the affine parameters, 0 for all others."""
        affine = {id(parameter) for parameter in self._affine()}
        climbed = [g if id(p) in affine else torch.zeros_like(g) for p, g in zip(parameters, gradients, strict=True)]
        return scale_to_length(climbed, self.hparams.rho, eps=1e-16)

    def _affine(self) -> list[Tensor]:
        """Return the affine parameters of the normalization layers that learn."""
        # A layer's own parameters alone: timm's norms also hold their activation, which may have some.
        found = [p for layer in norms(self) for p in layer.parameters(recurse=False) if p.requires_grad]
        if not found:
            raise UserError("SAMON displaces the normalization layers that learn, and this network has none")
        return list(found)
