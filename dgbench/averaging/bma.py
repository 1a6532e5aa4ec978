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
    """sum_t w_t theta_t / sum_t w_t over t = 0, ..., T, w_t the density of Beta(beta, beta) at (t + 1/2) / (T + 1).

    Shu, Guo, Wu, Wang, Wang and Long, "CLIPood: Generalizing CLIP to Out-of-Distributions", ICML 2023: its average of
    the weights, without its loss. theta_0 are the initial weights, theta_t those after t of T optimizer steps.

    Departures from the authors' code: buffers are averaged like parameters (live batch norm's statistics are measured
    afresh; CLIP has no batch norm); weights that too large a beta makes vanish still count by their ratio.
    """

    card = AverageCard(paper="Shu et al., ICML 2023", when="end")

    @dataclass(frozen=True)
    class Hparams(Checked):
        """The paper's value."""

        beta: float = hparam(
            0.5, help="below 1 the ends of the run weigh most, at 1 all alike, above 1 its middle", within="(0, inf)"
        )

    hparams: Hparams

    def __init__(self, hparams: Any) -> None:
        super().__init__(hparams)
        self._seen, self._steps = 0, 0
        self._log_total = 0.0  # Of the sum of the weights so far, which may be too small for a float.
        self._mean: Weights = {}

    def begin(self, weights: Mapping[str, Tensor], steps: int) -> None:
        """Start with theta_0 and its weight."""
        self._steps = steps
        self._log_total = self._log_weight()
        self._mean = copied(weights)

    def observe(self, weights: Mapping[str, Tensor]) -> None:
        """Add theta_t with its weight."""
        self._seen += 1
        log_weight = self._log_weight()
        apart = abs(log_weight - self._log_total)
        self._log_total = max(log_weight, self._log_total) + math.log1p(math.exp(-apart))
        move_towards(self._mean, weights, math.exp(log_weight - self._log_total))

    def _log_weight(self) -> float:
        """Logarithm of w_t up to a constant, t the steps seen."""
        x = (self._seen + 0.5) / (self._steps + 1)
        return (self.hparams.beta - 1) * (math.log(x) + math.log1p(-x))

    def weights(self) -> Weights | None:
        """The average of what has been seen."""
        return self._mean

    def state(self) -> dict[str, Any]:
        """Steps seen and in all, the sum of the weights, and the average."""
        return {"seen": self._seen, "steps": self._steps, "log_total": self._log_total, "mean": self._mean}

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` gave."""
        self._seen, self._steps, self._log_total = state["seen"], state["steps"], state["log_total"]
        self._mean = dict(state["mean"])
