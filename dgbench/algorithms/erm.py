"""Empirical risk minimisation: the baseline that every other method is measured against."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from dgbench.core.cards import AlgorithmCard
from dgbench.methods.algorithm import Algorithm, Batch


class ERM(Algorithm):
    """min over theta of mean over the examples of all domains of CE(f(x), y).

    Vapnik, "Statistical Learning Theory", 1998; as the baseline of domain generalization: Gulrajani and Lopez-Paz,
    "In Search of Lost Domain Generalization", ICLR 2021.

    Departures: none from DomainBed's code. The mean is over examples, so domains weigh alike because their
    minibatches have one size.
    """

    card = AlgorithmCard(paper="Vapnik, Statistical Learning Theory, 1998", baseline=True)

    def loss(self, batches: Sequence[Batch]) -> Tensor:
        """Cross-entropy over the concatenated minibatches."""
        return self.joint_loss(batches)
