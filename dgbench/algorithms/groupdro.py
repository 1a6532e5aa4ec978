"""Group distributionally robust optimization (GroupDRO): the harder a domain is, the more it weighs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dgbench.algorithms._domains import domain_indices, feature_losses
from dgbench.core.cards import AlgorithmCard
from dgbench.core.space import hparam, power
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.batch import Batch


class GroupDRO(Algorithm):
    r"""Minimize a weighted mean of the domains' losses, with weights that grow where the loss is high.

    $$
    \min_\theta \; \max_{q \in \Delta} \; \sum_e q_e L_e, \qquad
    q_e \leftarrow \frac{q_e \exp(\eta L_e)}{\sum_{e'} q_{e'} \exp(\eta L_{e'})} \quad \text{before each step}
    $$

    $L_e$ is the loss of domain $e$, $\Delta$ the simplex and $\eta$ is `groupdro_eta`. The groups of the paper are the
    training domains.

    Reference:
        Sagawa, Koh, Hashimoto and Liang, "Distributionally Robust Neural Networks for Group Shifts: On the Importance
        of Regularization for Worst-Case Generalization", ICLR 2020.

    Departures from the authors' code: every domain is in every minibatch, and there is no adjustment by group size.

    Departures from DomainBed's code: none in the numbers, but $q$ is kept as its logarithm, so that no domain's weight
    can underflow to 0 for good, and it is saved.
    """

    log_q: Tensor

    card = AlgorithmCard(
        paper="Sagawa et al., ICLR 2020",
        link="https://arxiv.org/abs/1911.08731",
        tags=("distribution-robustness", "reweighting"),
        min_domains=2,
        penalties=("groupdro_eta",),
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Hyperparameters of GroupDRO; default and draw are DomainBed's."""

        groupdro_eta: float = hparam(1e-2, power(10, -3, -1), help="how fast the domains' weights follow their losses")

    hparams: Hparams

    def build(self) -> None:
        """Create the domains' weights, which start equal."""
        self.register_buffer("log_q", torch.zeros(self.task.num_domains).log_softmax(dim=0))

    def loss(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """Return the weighted loss, and the domains' mean loss; their weights step first, and are kept at the end."""
        losses = feature_losses(self, self.domain_features(batches), batches)
        domains = domain_indices(self, batches)
        gains = self.hparams.groupdro_eta * losses.detach()
        # Domains that this step doesn't show gain nothing; the normalization is over all.
        log_q = self.log_q.index_add(0, domains, gains).log_softmax(dim=0)
        self.defer(lambda: self.log_q.copy_(log_q))
        return {"loss": losses @ log_q[domains].exp(), "nll": losses.mean()}
