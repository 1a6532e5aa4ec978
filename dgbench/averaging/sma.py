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
"""The average of the paper's code, and the one of DiWA's code."""


class SMA(Average):
    r"""Average all weights from a fixed step on.

    $$
    \bar\theta_t = \frac{1}{t - t_0 + 2} \sum_{i = t_0 - 1}^{t} \theta_i \;\; (t \ge t_0), \qquad
    \bar\theta_t = \theta_t \;\; (t < t_0)
    $$

    $\theta_t$ are the weights after optimizer step $t$, counted from 1, and $t_0$ is `start`. As in the authors' code,
    the mean includes the step before $t_0$.

    `form="diwa"` is the moving average of DiWA's code (Ramé et al., NeurIPS 2022), which was written after this one:
    the mean of $\theta_{t_0}, \dots, \theta_t$, in which $\theta_{t_0}$ counts twice. The average of ERM++ (Teterwak et
    al., WACV 2025) is the paper's form with `start=600`; its other parts are the algorithm `ERMPlusPlus`.

    Reference:
        Arpit, Wang, Zhou and Xiong, "Ensemble of Averages: Improving Model Selection and Boosting Performance in Domain
        Generalization", NeurIPS 2022.

    Departures from the authors' code: batch norm's count of batches is the live model's, where theirs stays at its
    first value. DiWA's code averages parameters alone; buffers are averaged in both forms.
    """

    card = AverageCard(
        paper="Arpit et al., NeurIPS 2022",
        link="https://arxiv.org/abs/2110.10832",
        tags=("averaging",),
        when="always",
        batch_norm="averaged",
    )

    @dataclass(frozen=True)
    class Hparams(Checked):
        """Hyperparameters of SMA; the default of `start` is the paper's."""

        start: int = hparam(
            100, help="t0, the first optimizer step that averages, counted from 1", within="[1, inf)", begins="step"
        )
        form: str = hparam("paper", help="the paper's average, or that of DiWA's code", options=FORMS)

        def __post_init__(self) -> None:
            super().__post_init__()
            # The mean includes step start - 1, and the steps begin at 1.
            if self.form == "paper" and self.start < 2:
                raise UserError(f"start must be at least 2, not {self.start}: the step before it is averaged too")

    hparams: Hparams

    def __init__(self, hparams: Any) -> None:
        super().__init__(hparams)
        self._seen = 0
        self._mean = RunningMean()

    def observe(self, weights: Mapping[str, Tensor]) -> None:
        """Average the live weights; before the start, keep a copy of them instead."""
        self._seen += 1
        begins = self.hparams.form == "diwa" and self._seen == self.hparams.start
        if begins or self._seen < self.hparams.start:
            self._mean = RunningMean()
        self._mean.add(weights)
        if begins:
            self._mean.count = 2  # theta_{t0} counts twice.

    def weights(self) -> Weights | None:
        """Return the mean now; before the start, the live model's latest weights."""
        return self._mean.mean or None

    def state(self) -> dict[str, Any]:
        """Return the number of steps seen, and the mean."""
        return {"seen": self._seen, "mean": self._mean.state()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from a result of `state`."""
        self._seen = state["seen"]
        self._mean.load(state["mean"])
