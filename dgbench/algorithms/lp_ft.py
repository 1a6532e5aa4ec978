"""LP-FT: fine-tuning that begins with a fitted classifier, so that it distorts pretrained features less."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from dgbench.core.cards import AlgorithmCard
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.batch import Batch


class LPFT(Algorithm):
    r"""Fit a linear classifier to the initial features, then train the whole network.

    $$
    \min_\theta \; \frac{1}{n} \sum_{i=1}^{n} \ell\big(f_\theta(x_i), y_i\big), \qquad
    \theta_0 = (\phi_0, \hat W, \hat b)
    $$

    $\phi_0$ are the pretrained weights, and $\hat W, \hat b$ the classifier of the row `LinearProbe`. A classifier that
    starts at random sends gradients through the features that have nothing to do with the task; a fitted one sends
    small ones. The steps are those of `ERM`. Any other algorithm begins so with `classifier_init` `linear_probe`.

    Reference:
        Kumar, Raghunathan, Jones, Ma and Liang, "Fine-Tuning can Distort Pretrained Features and Underperform
        Out-of-Distribution", ICLR 2022.

    Departures from the authors' code: the probe tries ten penalties in place of a hundred. Optimizer, learning rates
    and batch size are the setting's and the draws of `ERM`, where the authors take SGD with batches of 64.
    """

    card = AlgorithmCard(
        paper="Kumar et al., ICLR 2022",
        link="https://arxiv.org/abs/2202.10054",
        tags=("pretraining", "training-recipe"),
        setting={"classifier_init": "linear_probe"},
        needs=("classes", "linear_classifier", "own_classifier"),
    )

    def loss(self, batches: Sequence[Batch]) -> Tensor:
        """Return the mean loss over the concatenated minibatches."""
        return self.joint_loss(batches)
