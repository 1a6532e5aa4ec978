"""IIDMax: an average that begins anew at each new best of the validation accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dgbench.core.cards import AverageCard
from dgbench.methods.average import Average, RunningMean, Weights


class IIDMax(Average):
    r"""Average the weights since the evaluation with the best validation accuracy so far.

    $$
    \bar\theta_i = \frac{1}{i - b + 1} \sum_{j=b}^{i} S_j, \qquad
    b = \text{first } j \le i \text{ with } a_j = \max(a_1, \dots, a_i)
    $$

    $S_j$, segment $j$, is the mean of the weights after each optimizer step since evaluation $j - 1$. $a_j$ is the live
    model's accuracy at evaluation $j$, the unweighted mean over the training domains' validation parts.

    Of all these averages, the authors keep the first with the best validation accuracy. Each of them is evaluated, and
    the choice is left to the selector: training-domain validation chooses theirs.

    Reference:
        Cha, Chun, Lee, Cho, Park, Lee and Park, "SWAD: Domain Generalization by Seeking Flat Minima", NeurIPS 2021: the
        alternative to SWAD in the authors' code.

    Departures from the authors' code: buffers are averaged like parameters (the statistics of live batch norm are
    measured afresh). The last step is evaluated even if the interval does not divide it, so there is a segment that
    ends at it.
    """

    card = AverageCard(
        paper="Cha et al., NeurIPS 2021",
        link="https://arxiv.org/abs/2102.08604",
        tags=("averaging",),
        when="always",
        copies=2.0,
    )

    def __init__(self, hparams: Any) -> None:
        super().__init__(hparams)
        self._best = -1.0
        self._segment = RunningMean()
        self._mean = RunningMean()

    def observe(self, weights: Mapping[str, Tensor]) -> None:
        """Add the live weights to the current segment."""
        self._segment.add(weights)

    def validate(self, step: int, losses: Mapping[str, float], accuracies: Mapping[str, float]) -> None:
        """Close the segment; begin anew with it if the live model has never been better."""
        accuracy = sum(accuracies.values()) / len(accuracies)
        if accuracy > self._best:
            self._best, self._mean = accuracy, RunningMean()
        self._mean.add(self._segment.mean)
        self._segment = RunningMean()

    def weights(self) -> Weights | None:
        """Return the average now, or None before the first evaluation."""
        return self._mean.mean or None

    def state(self) -> dict[str, Any]:
        """Return the best accuracy, the current segment, and the average."""
        return {"best": self._best, "segment": self._segment.state(), "mean": self._mean.state()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from a result of `state`."""
        self._best = state["best"]
        self._segment.load(state["segment"])
        self._mean.load(state["mean"])
