"""Linear probing: the quality of pretrained features, seen by a linear classifier on them."""

from __future__ import annotations

from dgbench.algorithms._untrained import Untrained
from dgbench.core.cards import AlgorithmCard


class LinearProbe(Untrained):
    r"""Fit a linear classifier to the initial features, which stay as they are.

    $$
    \min_{W, b} \; \frac{1}{n} \sum_{i=1}^{n} \mathrm{CE}\big(W \phi(x_i) + b, y_i\big) + \lambda \lVert W \rVert^2
    $$

    $\phi$ is the featurizer with its initial weights. The sum runs over all training examples, without augmentation;
    $\lambda$ is the penalty, of ten, with the best accuracy on the training domains' `out` parts. The fit is logistic
    regression to its optimum, not a course of steps: a run has one step, which changes nothing, and one evaluation. No
    hyperparameter has an effect, so that there is one run for each fold and trial, whatever the number of draws.

    Reference:
        Alain and Bengio, "Understanding Intermediate Layers Using Linear Classifier Probes", 2016; in the form of
        Kumar, Raghunathan, Jones, Ma and Liang, "Fine-Tuning can Distort Pretrained Features and Underperform
        Out-of-Distribution", ICLR 2022.

    Departures from the second's code: ten penalties in place of a hundred.
    """

    card = AlgorithmCard(
        paper="Alain and Bengio, 2016",
        link="https://arxiv.org/abs/1610.01644",
        tags=("pretraining",),
        forwards=0.0,
        backwards=0.0,
        setting={"classifier_init": "linear_probe"},
        learns=False,
        needs=("classes", "linear_classifier", "own_classifier"),
    )
