"""Simple moving average: the mean of all weights from a fixed step on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dgbench.core.cards import AverageCard
from dgbench.core.errors import UserError
from dgbench.core.space import Checked, hparam
from dgbench.methods.average import Average, RunningMean, Weights

FORMS = ("paper", "diwa")


class SMA(Average):
    """theta_sma(t) = mean of theta_{t0-1}, ..., theta_t for t >= t0; theta_t before. t counts optimizer steps from 1.

    Arpit, Wang, Zhou and Xiong, "Ensemble of Averages: Improving Model Selection and Boosting Performance in Domain
    Generalization", NeurIPS 2022. As in the authors' code, the mean takes in the step before t0 (t0 = `start`).

    `form="diwa"` is the moving average of DiWA's code (Rame et al., NeurIPS 2022), written after this one: the mean of
    theta_{t0}, ..., theta_t in which theta_{t0} counts twice. ERM++'s average (Teterwak et al., WACV 2025) is the
    paper's form with start=600; its other parts are the algorithm ERMPlusPlus.

    Departures from the authors' code: batch norm's count of batches is the live model's (theirs stays at its first
    value); DiWA's averages parameters alone, here buffers are averaged in both forms.
    """

    card = AverageCard(paper="Arpit et al., NeurIPS 2022", when="always", batch_norm="averaged")

    @dataclass(frozen=True)
    class Hparams(Checked):
        """The paper's start."""

        start: int = hparam(100, help="t0, the first optimizer step, counted from 1, that averages", within="[1, inf)")
        form: str = hparam("paper", help="the paper's, or that of DiWA's code", options=FORMS)

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.form == "paper" and self.start < 2:
                raise UserError(f"start must be at least 2, not {self.start}: the step before it is averaged too")

    hparams: Hparams

    def __init__(self, hparams: Any) -> None:
        super().__init__(hparams)
        self._seen = 0
        self._mean = RunningMean()

    def observe(self, weights: Mapping[str, Tensor]) -> None:
        """Average, or before the start keep a copy of the live weights."""
        self._seen += 1
        begins = self.hparams.form == "diwa" and self._seen == self.hparams.start
        if begins or self._seen < self.hparams.start:
            self._mean = RunningMean()
        self._mean.add(weights)
        if begins:
            self._mean.count = 2  # theta_{t0} counts twice.

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
