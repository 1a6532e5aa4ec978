"""Domain-inspired SAM (DISAM): SAM whose ascent takes the spread of the domains' losses into account."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dgbench.core.composition import RuleCard
from dgbench.core.space import choice, hparam
from dgbench.methods import algorithm
from dgbench.methods.ascent import backward_at, gradient, scale_to_length
from dgbench.methods.batch import Batch
from dgbench.methods.rule import First, Rule

WEIGHTINGS = ("domains", "examples")
"""The choices of `weighting`."""


class DISAM(Rule):
    r"""Minimize the loss uphill of the weights, climbing less along domains whose loss is high.

    $$
    \min_\theta L(\theta + \epsilon), \quad \epsilon = \rho\, \frac{d}{\|d\|_2 + 10^{-12}}, \quad
    d = \nabla_\theta \Big( L - \lambda\, \frac{1}{E} \sum_e (L_e - \bar L)^2 \Big), \; \bar L = \tfrac{1}{E} \sum_e L_e
    $$

    $L$ is the loss, the mean over examples, $L_e$ that of domain $e$ of $E$, and $\lambda$ is `disam_lambda`. The
    variance is in the ascent alone: domains with a high loss pull less at the direction uphill. This is Eq. 6 of the
    paper.

    Reference:
        Zhang, Fan, Yao, Zhang and Wang, "Domain-Inspired Sharpness-Aware Minimization Under Domain Shifts", ICLR 2024.

    Departures from the authors' code:

    - Each domain weighs alike in the variance, as the paper says. In their code it is $\sum_e (n_e / n) (L_e - L)^2$ by
      the numbers of examples, which `weighting` = `examples` gives (both are the same where minibatches are equally
      large).
    - In the second pass live batch norm leaves its statistics alone (theirs move in both).
    - No stronger augmentation.
    - SAM beneath it, not GSAM or SAGM.

    The paper's text says $\rho$ = 0.05, its appendix 0.5.

    DomainBed: has no DISAM.
    """

    card = RuleCard(
        paper="Zhang et al., ICLR 2024",
        link="https://arxiv.org/abs/2405.18861",
        tags=("flat-minima",),
        forwards=2.0,
        backwards=2.0,
        forwards_beside=1.0,
        backwards_beside=1.0,
        min_domains=2,
        penalties=("disam_lambda",),
        base="SAM",
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Hyperparameters of DISAM; defaults are the paper's, the draw of `rho` is SAM's."""

        rho: float = hparam(0.05, choice(0.01, 0.02, 0.05, 0.1), help="length of the step uphill", within="[0, inf)")
        disam_lambda: float = hparam(0.1, help="weight of the domains' variance in the ascent", within="[0, inf)")
        weighting: str = hparam(
            "domains", help="whether domains or examples weigh alike in the variance", options=WEIGHTINGS
        )

    hparams: Hparams

    def displacement(self, parameters: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        """Return the step uphill."""
        return scale_to_length(gradients, self.hparams.rho)

    def backward(self, batches: Sequence[Batch], first: First | None = None) -> Mapping[str, Tensor]:
        """Climb the loss less the variance of the domains' losses, and take the gradient of the loss there."""
        if self.stepped:
            parts = self.objective(batches)
            with self.passes.repeat(self):
                losses = self.domain_losses(batches)
        else:  # one pass serves both
            losses = self.domain_losses(batches)
            parts = {"loss": _by_size(losses, batches)}
        mean = _by_size(losses, batches)
        if self.hparams.weighting == "examples":
            variance = _by_size((losses - mean).square(), batches)
        else:
            variance = (losses - losses.mean()).square().mean()
        climbed = parts["loss"] - self.hparams.disam_lambda * variance
        parameters, ascent = gradient(climbed, self.parameters())
        # The descent is along the gradient of the loss itself: the variance is in the ascent alone.
        uphill, _ = backward_at(self, batches, parameters, self.displacement(parameters, ascent))
        return self.logged(First({**parts, "variance": variance}, parameters, ascent), uphill)


def _by_size(values: Tensor, batches: Sequence[Batch]) -> Tensor:
    """Return the mean of the domains' values (E,), weighted by their numbers of examples."""
    total = sum(len(batch.y) for batch in batches)
    return torch.stack([len(b.y) / total * value for b, value in zip(batches, values.unbind(), strict=True)]).sum()
