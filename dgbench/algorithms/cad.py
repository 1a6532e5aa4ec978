"""Contrastive adversarial domain bottleneck (CAD): the neighbors of an example should come from other domains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dgbench.algorithms._adversary import domain_labels
from dgbench.core.cards import AlgorithmCard
from dgbench.core.space import choice, hparam
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.batch import Batch

BASE_TEMPERATURE, PROJECTED = 0.07, 128
"""The temperature at which the penalty has weight `lmbda`, and the width of the projection; DomainBed's constants."""


class CAD(Algorithm):
    r"""Pull the features of each example towards examples of other domains.

    $$
    \min \; \mathrm{CE} - \lambda\, \frac{T}{0.07}\, \mathrm{mean}_i \log \sum_{j:\, e_j \ne e_i} p_i(j), \qquad
    p_i(j) = \frac{\exp(z_i^\top z_j / T)}{\sum_{k \ne i} \exp(z_i^\top z_k / T)}
    $$

    $z_i$ are the features of example $i$, $e_i$ is its domain, $\lambda$ is `lmbda` and $T$ is `temperature`. The mean
    is over examples that have another of their class in the minibatches. With `is_flipped` off, the penalty is plus the
    log of the sum over the same domain.

    Reference:
        Ruan, Dubois and Maddison, "Optimal Representations for Covariate Shift", ICLR 2022.

    Departures from DomainBed's code, which is the authors': where `is_flipped` is off, theirs counts the example itself
    among those of its domain, with similarity 0; masks where theirs selects rows, so that no step waits for the device.
    """

    card = AlgorithmCard(
        paper="Ruan et al., ICLR 2022",
        link="https://arxiv.org/abs/2201.00057",
        tags=("contrastive", "alignment"),
        min_domains=2,
        penalties=("lmbda",),
        unlike_domainbed="is_project on ends in a NameError; is_flipped off counts each example as its own neighbor",
        needs=("classes",),
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Hyperparameters of CAD; defaults and draws are DomainBed's."""

        lmbda: float = hparam(0.1, choice(1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2), help="weight of the bottleneck")
        temperature: float = hparam(
            0.1, choice(0.05, 0.1), help="T; small values look at near neighbors alone", within="(0, inf)"
        )
        is_normalized: bool = hparam(False, help="features of length 1 in the bottleneck")
        is_project: bool = hparam(False, help="a learned projection of the features in the bottleneck")
        is_flipped: bool = hparam(True, help="raise the share of other domains; off: lower that of the same")

    hparams: Hparams

    def build(self) -> None:
        """Create the projection if `is_project` is on."""
        n = self.network.num_features
        projection = nn.Sequential(nn.Linear(n, n), nn.ReLU(), nn.Linear(n, PROJECTED))
        self.project: nn.Module = projection if self.hparams.is_project else nn.Identity()

    def loss(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """Return the cross-entropy plus the bottleneck, from one forward pass."""
        y = torch.cat([b.y for b in batches])
        features = self.network.dropout(self.network.features(torch.cat([b.x for b in batches])))
        nll = F.cross_entropy(self.network.classifier(features), y)
        penalty = self._bottleneck(features, y, domain_labels(batches))
        loss = nll + self.hparams.lmbda * penalty
        return {"loss": loss, "nll": nll, "penalty": penalty}

    def _bottleneck(self, features: Tensor, y: Tensor, domains: Tensor) -> Tensor:
        h = self.hparams
        z = self.project(features)
        z = F.normalize(z, dim=1) if h.is_normalized else z
        other = ~torch.eye(len(y), dtype=torch.bool, device=y.device)
        same_class = (y[:, None] == y) & other
        targeted = ((domains[:, None] == domains) ^ h.is_flipped) & other
        among, counts = self.compared(same_class, other, targeted)
        # An example without a targeted neighbor has an empty sum, whose log would be minus infinity.
        counts = counts & (targeted & among).any(dim=1)
        similarity = z @ z.T / h.temperature
        log_share = _log_sum(similarity, targeted & among, counts) - _log_sum(similarity, among, counts)
        mean = (log_share * counts).sum() / counts.sum().clamp(min=1)
        return (-mean if h.is_flipped else mean) * (h.temperature / BASE_TEMPERATURE)

    def compared(self, same_class: Tensor, other: Tensor, targeted: Tensor) -> tuple[Tensor, Tensor]:
        """Return the masks of the comparisons (n, n), j of each example i, and of the examples that count (n,).

        Args:
            same_class: (n, n), whether j is another example of i's class.
            other: (n, n), whether j is not i.
            targeted: (n, n), whether j is of a domain whose share the penalty is about.
        """
        return other, same_class.any(dim=1)


class CondCAD(CAD):
    r"""Pull the features of each example towards examples of its class from other domains.

    $$
    \min \; \mathrm{CE} - \lambda\, \frac{T}{0.07}\, \mathrm{mean}_i \log \sum_{j:\, e_j \ne e_i} p_i(j), \qquad
    p_i(j) \propto \exp(z_i^\top z_j / T) \quad \text{over } j \ne i \text{ with } y_j = y_i
    $$

    This is CAD within each class, with its symbols. The mean is over examples whose class another domain has in the
    minibatches; with `is_flipped` off, over those whose class their own domain has again.

    Reference:
        Ruan, Dubois and Maddison, "Optimal Representations for Covariate Shift", ICLR 2022.

    Departures from DomainBed's code: those of CAD, of which the one about `is_flipped` has no counterpart in this
    method.
    """

    card = AlgorithmCard(
        paper="Ruan et al., ICLR 2022",
        link="https://arxiv.org/abs/2201.00057",
        tags=("contrastive", "alignment"),
        min_domains=2,
        penalties=("lmbda",),
        unlike_domainbed="is_project on ends in a NameError",
        needs=("classes",),
    )

    def compared(self, same_class: Tensor, other: Tensor, targeted: Tensor) -> tuple[Tensor, Tensor]:
        """Compare with examples of the same class; count those examples of whose class a targeted domain has one."""
        return same_class, (same_class & targeted).any(dim=1)


def _log_sum(similarity: Tensor, of: Tensor, rows: Tensor) -> Tensor:
    """Compute log sum_j exp(s_ij) over the j in the mask `of`, for each row i (n,).

    Rows that don't count stay finite: their entries are not masked, so that no infinity enters a product with 0.
    """
    return similarity.masked_fill(~of & rows[:, None], -torch.inf).logsumexp(dim=1)
