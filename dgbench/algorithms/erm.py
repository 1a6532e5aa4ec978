"""Empirical risk minimization (ERM), the baseline that every other method is measured against."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from dgbench.core.cards import AlgorithmCard
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.batch import Batch


class ERM(Algorithm):
    r"""Minimize the mean loss over the examples of all training domains.

    $$
    \min_\theta \; \frac{1}{n} \sum_{i=1}^{n} \ell\big(f_\theta(x_i), y_i\big)
    $$

    The sum runs over the $n$ examples of the step's minibatches, concatenated. $\ell$ is the cross-entropy where labels
    are classes, otherwise the loss that suits them. The mean is over examples, so domains weigh alike because their
    minibatches have one size.

    Reference:
        Vapnik, "Statistical Learning Theory", 1998; as the baseline of domain generalization: Gulrajani and Lopez-Paz,
        "In Search of Lost Domain Generalization", ICLR 2021.

    Departures from DomainBed's code: none.
    """

    card = AlgorithmCard(
        paper="Vapnik, Statistical Learning Theory, 1998",
        link="https://www.wiley.com/en-us/Statistical+Learning+Theory-p-9780471030034",
        tags=("baseline",),
        baseline=True,
    )

    def loss(self, batches: Sequence[Batch]) -> Tensor:
        """Return the mean loss over the concatenated minibatches."""
        return self.joint_loss(batches)
