"""Beta moving average: the beginning and the end of a run weigh more than its middle."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dgbench.core.cards import AverageCard
from dgbench.core.space import Checked, hparam
from dgbench.methods.average import Average, Weights, copied, move_towards


class BMA(Average):
    r"""Average the weights along the run, the beginning and the end weighing more than the middle.

    $$
    \bar\theta = \frac{\sum_{t=0}^{T} w_t\, \theta_t}{\sum_{t=0}^{T} w_t}, \qquad
    w_t = \mathrm{Beta}_{\beta, \beta}\Big(\frac{t + 1/2}{T + 1}\Big)
    $$

    $\theta_0$ are the initial weights, $\theta_t$ those after $t$ of $T$ optimizer steps, and
    $\mathrm{Beta}_{\beta, \beta}$ is the density of the Beta distribution with both parameters `beta`.

    Reference:
        Shu, Guo, Wu, Wang, Wang and Long, "CLIPood: Generalizing CLIP to Out-of-Distributions", ICML 2023: its average
        of the weights; the loss is the algorithm `CLIPood`.

    Departures from the authors' code: buffers are averaged like parameters (the statistics of live batch norm are
    measured afresh; CLIP has no batch norm). With a `beta` so large that weights $w_t$ underflow, they still count by
    their ratios.
    """

    card = AverageCard(
        paper="Shu et al., ICML 2023",
        link="https://arxiv.org/abs/2302.00864",
        tags=("averaging", "pretraining"),
        when="end",
    )

    @dataclass(frozen=True)
    class Hparams(Checked):
        """Hyperparameters of BMA; the value is the paper's."""

        beta: float = hparam(
            0.5, help="below 1 the ends of the run weigh most, at 1 all alike, above 1 its middle", within="(0, inf)"
        )

    hparams: Hparams

    def __init__(self, hparams: Any) -> None:
        super().__init__(hparams)
        self._seen, self._steps = 0, 0
        # The logarithm of the sum of the weights w_t so far, which itself may be too small for a float.
        self._log_total = 0.0
        self._mean: Weights = {}

    def begin(self, weights: Mapping[str, Tensor], steps: int) -> None:
        """Start with the initial weights, counted by their weight w_0."""
        self._steps = steps
        self._log_total = self._log_weight()
        self._mean = copied(weights)

    def observe(self, weights: Mapping[str, Tensor]) -> None:
        """Add the live weights, counted by their weight w_t."""
        self._seen += 1
        log_weight = self._log_weight()
        # log(e^a + e^b) = max(a, b) + log(1 + e^-|a - b|), which neither overflows nor loses the smaller.
        apart = abs(log_weight - self._log_total)
        self._log_total = max(log_weight, self._log_total) + math.log1p(math.exp(-apart))
        move_towards(self._mean, weights, math.exp(log_weight - self._log_total))

    def _log_weight(self) -> float:
        """Return log w_t up to a constant, which cancels in the average; t is the number of steps seen."""
        x = (self._seen + 0.5) / (self._steps + 1)
        return (self.hparams.beta - 1) * (math.log(x) + math.log1p(-x))

    def weights(self) -> Weights | None:
        """Return the average of the weights seen."""
        return self._mean

    def state(self) -> dict[str, Any]:
        """Return the steps seen and in all, the logarithm of the sum of weights, and the average."""
        return {"seen": self._seen, "steps": self._steps, "log_total": self._log_total, "mean": self._mean}

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from a result of `state`."""
        self._seen, self._steps, self._log_total = state["seen"], state["steps"], state["log_total"]
        self._mean = dict(state["mean"])
