"""Simple moving average: the mean of all weights from a fixed step on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dgbench.average import Average, RunningMean, Weights
from dgbench.cards import AverageCard
from dgbench.errors import UserError
from dgbench.space import hparam


class SMA(Average):
    """theta_sma(t) = mean of theta_{t0-1}, ..., theta_t for t >= t0; theta_t before. t counts optimizer steps from 1.

    Arpit, Wang, Zhou and Xiong, "Ensemble of Averages: Improving Model Selection and Boosting Performance in Domain
    Generalization", NeurIPS 2022.

    Departures from the authors' code: batch norm's count of batches is the live model's (theirs stays at its first
    value). As in theirs, the mean takes in the step before t0. DiWA's re-implementation counts theta_t0 twice.
    """

    card = AverageCard(paper="Arpit et al., NeurIPS 2022", when="always", batch_norm="averaged")

    @dataclass(frozen=True)
    class Hparams:
        """The paper's start."""

        start: int = hparam(100, help="t0, the first optimizer step, counted from 1, that averages")

        def __post_init__(self) -> None:
            if self.start < 2:
                raise UserError(f"SMA's start must be at least 2, not {self.start}: the step before it is averaged too")

    hparams: Hparams

    def __init__(self, hparams: Any) -> None:
        super().__init__(hparams)
        self._seen = 0
        self._mean = RunningMean()

    def observe(self, weights: Mapping[str, Tensor]) -> None:
        """Average, or before the start keep a copy of the live weights."""
        self._seen += 1
        if self._seen < self.hparams.start:
            self._mean = RunningMean()
        self._mean.add(weights)

    def weights(self) -> Weights | None:
        """The mean now; the live model's weights where training is shorter than the start."""
        return self._mean.mean or None

    def state(self) -> dict[str, Any]:
        """Steps seen, and the mean."""
        return {"seen": self._seen, "mean": self._mean.state()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` gave."""
        self._seen = state["seen"]
        self._mean.load(state["mean"])
