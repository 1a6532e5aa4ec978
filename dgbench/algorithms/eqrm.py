"""Quantile risk minimization (EQRM): do well in most domains that might come, not on average and not in the worst."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from dgbench.algorithms._domains import feature_losses
from dgbench.core.cards import AlgorithmCard
from dgbench.core.space import hparam, power, uniform
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.batch import Batch

_POINTS, _ROUNDS = 256, 7


class EQRM(Algorithm):
    r"""Minimize a high quantile of the estimated distribution of the domains' losses.

    $$
    \min_\theta F^{-1}(\alpha), \qquad F(r) = \frac{1}{E} \sum_e \Phi\Big(\frac{r - L_e}{h}\Big), \qquad
    h = 1.06\; \mathrm{std}_e(L_e)\; E^{-1/5}
    $$

    $L_e$ is the loss of domain $e$ of $E$ and $\Phi$ the normal distribution function. $F$ is a kernel estimate of the
    distribution of the domains' losses; its bandwidth $h$ depends on $\theta$, too. The first `eqrm_burnin_iters` steps
    are ERM's; then the optimizer starts afresh with a smaller learning rate.

    Reference:
        Eastwood, Robey, Singh, von Kuegelgen, Hassani, Pappas and Schoelkopf, "Probable Domain Generalization via
        Quantile Risk Minimization", NeurIPS 2022.

    Departures from the paper: none known.

    Departures from the authors' code and from DomainBed's:

    - These find the quantile by bisection and differentiate its result as
      $c \cdot \mathrm{low} + (1 - c) \cdot \mathrm{high}$, $c$ constant. $\mathrm{low}$ and $\mathrm{high}$ lie around
      the least and the greatest loss, so other domains matter by $h$ alone. In this implementation the derivative is
      the quantile's, by the implicit function theorem.
    - Losses of all domains come from one pass where no live batch norm would see them mixed (theirs pass domain by
      domain).
    - A deviation of the losses below 1e-6 counts as 1e-6.
    """

    card = AlgorithmCard(
        paper="Eastwood et al., NeurIPS 2022",
        link="https://arxiv.org/abs/2207.09944",
        tags=("distribution-robustness",),
        min_domains=2,
        rehearsal={"eqrm_burnin_iters": 5, "eqrm_lr": 1e-3},
        unlike_domainbed="differentiates the ends of a bisection, not the quantile; a drawn burn-in is a fraction, "
        "which no step equals, so eqrm_lr never takes effect",
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Hyperparameters of EQRM; defaults and draws are DomainBed's, but for a burn-in that is a whole number."""

        eqrm_quantile: float = hparam(
            0.75, uniform(0.5, 0.99), help="alpha, the share of domains to be good in", within="(0, 1)"
        )
        eqrm_burnin_iters: int = hparam(
            2500, power(10, 2.5, 3.5, integer=True), help="first step that isn't ERM's", begins="step"
        )
        eqrm_lr: float = hparam(1e-6, power(10, -7, -5), help="learning rate from that step on", within="[0, inf)")

    hparams: Hparams

    def before_step(self) -> None:
        """Drop the optimizer's moments where the objective changes."""
        if self.step == self.hparams.eqrm_burnin_iters:
            self.optimizer = self.new_optimizer(self.parameters(), lr=self.hparams.eqrm_lr)

    def loss(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """Return the loss, and the mean of the domains' losses."""
        risks = feature_losses(self, self.domain_features(batches), batches)
        burning_in = self.step < self.hparams.eqrm_burnin_iters
        loss = risks.mean() if burning_in else quantile(risks, self.hparams.eqrm_quantile)
        return {"loss": loss, "nll": risks.mean()}


def quantile(risks: Tensor, alpha: float) -> Tensor:
    """Compute a quantile of the Gaussian kernel density estimate of the domains' losses.

    Args:
        risks: Losses of the domains (E,), at least two.
        alpha: The share of the distribution below the quantile, in (0, 1).

    Returns:
        A scalar, differentiable with respect to `risks`.
    """
    bandwidth = 1.06 * risks.var().clamp_min(1e-12).sqrt() * len(risks) ** -0.2
    with torch.no_grad():
        # The quantile lies between those of two distributions: all losses at the least, and all at the greatest.
        reach = NormalDist().inv_cdf(alpha) * bandwidth
        low, high = risks.min() + reach, risks.max() + reach
        share = torch.linspace(0, 1, _POINTS, dtype=risks.dtype, device=risks.device)
        # Narrow the interval down to the two neighbors of alpha among many points, all at once: no value is read on the
        # host, as a bisection would at each of its steps.
        for _ in range(_ROUNDS):
            points = low + share * (high - low)
            below = (_cdf(points, risks, bandwidth) < alpha).sum().clamp(1, _POINTS - 1)
            low, high = points.gather(0, torch.stack([below - 1, below]))
        found = (low + high) / 2
        density = torch.exp(-(((found - risks) / bandwidth) ** 2) / 2).mean() / (bandwidth * (2 * torch.pi) ** 0.5)
    # One step of Newton's method: its value is the quantile and its derivative is the quantile's derivative, as `found`
    # and `density` are constants.
    result: Tensor = found - (_cdf(found[None], risks, bandwidth).squeeze(0) - alpha) / density
    return result


def _cdf(points: Tensor, risks: Tensor, bandwidth: Tensor) -> Tensor:
    """Compute F at each of the points (P,)."""
    values: Tensor = torch.special.ndtr((points[:, None] - risks) / bandwidth)
    return values.mean(dim=1)
