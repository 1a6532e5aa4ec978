"""Quantile risk minimisation: be good in most domains that might come, not on average and not in the worst."""

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
from dgbench.methods.algorithm import Algorithm, Batch

_POINTS, _ROUNDS = 256, 7


class EQRM(Algorithm):
    """min over theta of F^-1(alpha), F(r) = mean_e Phi((r - L_e) / h), h = 1.06 * std_e(L_e) * E^(-1/5).

    Eastwood, Robey, Singh, von Kuegelgen, Hassani, Pappas and Schoelkopf, "Probable Domain Generalization via Quantile
    Risk Minimization", NeurIPS 2022. L_e is the loss of domain e of E, F a kernel estimate of how the domains' losses
    are distributed, h its bandwidth, which depends on theta, too. The first steps are ERM's; then the optimizer starts
    afresh with a smaller learning rate.

    Departures from the paper: none known. From the authors' code and DomainBed's, which find the quantile by bisection
    and differentiate its result as c * low + (1 - c) * high, c constant: low and high lie around the least and the
    greatest loss, so other domains matter by h alone. Here the derivative is the quantile's, by the implicit function
    theorem. Also, losses of all domains come from one pass where no live batch norm would see them mixed (theirs pass
    domain by domain); a deviation of theirs below 1e-6 counts as 1e-6.
    """

    card = AlgorithmCard(
        paper="Eastwood et al., NeurIPS 2022",
        min_domains=2,
        rehearsal={"eqrm_burnin_iters": 5, "eqrm_lr": 1e-3},
        unlike_domainbed="differentiates the ends of a bisection, not the quantile; a drawn burn-in, a fraction, never "
        "ends with eqrm_lr",
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Defaults and draws are DomainBed's, but that the burn-in is whole."""

        eqrm_quantile: float = hparam(
            0.75, uniform(0.5, 0.99), help="alpha, the share of domains to be good in", within="(0, 1)"
        )
        eqrm_burnin_iters: int = hparam(2500, power(10, 2.5, 3.5, integer=True), help="first step that isn't ERM's")
        eqrm_lr: float = hparam(1e-6, power(10, -7, -5), help="learning rate from that step on", within="[0, inf)")

    hparams: Hparams

    def update(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """One step; the optimizer's moments are dropped where the objective changes."""
        if self.step == self.hparams.eqrm_burnin_iters:
            self.optimizer = self.new_optimizer(self.parameters(), lr=self.hparams.eqrm_lr)
        risks = feature_losses(self, self.domain_features(batches), batches)
        burning_in = self.step < self.hparams.eqrm_burnin_iters
        loss = risks.mean() if burning_in else quantile(risks, self.hparams.eqrm_quantile)
        self.descend(loss)
        return {"loss": loss.detach(), "nll": risks.detach().mean()}


def quantile(risks: Tensor, alpha: float) -> Tensor:
    """F^-1(alpha), a differentiable scalar, F the Gaussian kernel density estimate from `risks` (E,)."""
    bandwidth = 1.06 * risks.var().clamp_min(1e-12).sqrt() * len(risks) ** -0.2
    with torch.no_grad():
        reach = NormalDist().inv_cdf(alpha) * bandwidth
        low, high = risks.min() + reach, risks.max() + reach
        share = torch.linspace(0, 1, _POINTS, dtype=risks.dtype, device=risks.device)
        # Narrow it down to the two neighbours of alpha among many points, all at once: no value is read on the host.
        for _ in range(_ROUNDS):
            points = low + share * (high - low)
            below = (_cdf(points, risks, bandwidth) < alpha).sum().clamp(1, _POINTS - 1)
            low, high = points.gather(0, torch.stack([below - 1, below]))
        found = (low + high) / 2
        density = torch.exp(-(((found - risks) / bandwidth) ** 2) / 2).mean() / (bandwidth * (2 * torch.pi) ** 0.5)
    # One step of Newton's: its value is the quantile, and so is its derivative, as `found` and `density` are constants.
    result: Tensor = found - (_cdf(found[None], risks, bandwidth).squeeze(0) - alpha) / density
    return result


def _cdf(points: Tensor, risks: Tensor, bandwidth: Tensor) -> Tensor:
    """F at each of the points (P,)."""
    values: Tensor = torch.special.ndtr((points[:, None] - risks) / bandwidth)
    return values.mean(dim=1)
