"""IIDMax: the average begins anew at each new best of the validation accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dgbench.core.cards import AverageCard
from dgbench.methods.average import Average, RunningMean, Weights


class IIDMax(Average):
    """mean of segments b, ..., i at evaluation i, b the first of those until i with the highest validation accuracy.

    Cha, Chun, Lee, Cho, Park, Lee and Park, "SWAD: Domain Generalization by Seeking Flat Minima", NeurIPS 2021: the
    alternative to SWAD in the authors' code. Segment j is the mean of the weights after each optimizer step since
    evaluation j-1; the accuracy is the live model's at evaluation j, the unweighted mean over the training domains.

    The authors keep, of all these averages, that with the best validation accuracy of its own: the first of them. Here
    each is evaluated, and choosing is the selector's: training-domain validation chooses theirs.

    Departures from the authors' code: buffers are averaged like parameters (live batch norm's statistics are measured
    afresh); there is an evaluation, so a segment, at the last step also where the interval doesn't divide it.
    """

    card = AverageCard(paper="Cha et al., NeurIPS 2021", when="always", copies=2.0)

    def __init__(self, hparams: Any) -> None:
        super().__init__(hparams)
        self._best = -1.0
        self._segment = RunningMean()
        self._mean = RunningMean()

    def observe(self, weights: Mapping[str, Tensor]) -> None:
        """Take the live weights into the current segment."""
        self._segment.add(weights)

    def validate(self, step: int, losses: Mapping[str, float], accuracies: Mapping[str, float]) -> None:
        """Close the segment, and begin anew with it if the live model has never been better."""
        accuracy = sum(accuracies.values()) / len(accuracies)
        if accuracy > self._best:
            self._best, self._mean = accuracy, RunningMean()
        self._mean.add(self._segment.mean)
        self._segment = RunningMean()

    def weights(self) -> Weights | None:
        """The average now; None before the first evaluation."""
        return self._mean.mean or None

    def state(self) -> dict[str, Any]:
        """The best accuracy, the current segment, and the average."""
        return {"best": self._best, "segment": self._segment.state(), "mean": self._mean.state()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` gave."""
        self._best = state["best"]
        self._segment.load(state["segment"])
        self._mean.load(state["mean"])
