"""WAKD: the mean of all weights from an early step to the last, without any validation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dgbench.core.cards import AverageCard
from dgbench.core.space import Checked, hparam
from dgbench.methods.average import Average, RunningMean, Weights


class WAKD(Average):
    r"""Average all weights from an early step to the end of the run, without any validation.

    $$
    \bar\theta = \mathrm{mean}\, \{\theta_t : t > \texttt{start} \cdot \text{steps}\}
    $$

    $\theta_t$ are the weights after optimizer step $t$, counted from 1. There is one model, when training is over. The
    average was made for students (`KD+WAKD`) that train long. With a validated choice of the step it is `SMA`.

    Reference:
        Berezovskiy and Morozov, "Weight Averaging Improves Knowledge Distillation under Domain Shift", ICCV workshops
        2023.

    Departures from the authors' code: the first step is a share of the run; theirs is the 5,000th of 50,000.
    """

    card = AverageCard(
        paper="Berezovskiy and Morozov, ICCV-W 2023",
        link="https://arxiv.org/abs/2309.11446",
        tags=("averaging", "distillation"),
        when="end",
    )

    @dataclass(frozen=True)
    class Hparams(Checked):
        """Hyperparameters of WAKD; the share is the paper's."""

        start: float = hparam(
            0.1, help="share of the steps that pass before any weights count", within="[0, 1)", begins="share"
        )

    hparams: Hparams

    def __init__(self, hparams: Any) -> None:
        super().__init__(hparams)
        self._mean = RunningMean()
        self._step = 0
        self._first = 0

    def begin(self, weights: Mapping[str, Tensor], steps: int) -> None:
        """Compute the first step that counts."""
        self._first = min(steps, math.floor(self.hparams.start * steps) + 1)

    def observe(self, weights: Mapping[str, Tensor]) -> None:
        """Add the live weights to the mean, from the first step that counts."""
        self._step += 1
        if self._step >= self._first:
            self._mean.add(weights)

    def weights(self) -> Weights | None:
        """Return the mean, or None before the first step that counts."""
        return self._mean.mean or None

    def state(self) -> dict[str, Any]:
        """Return the mean, the number of steps seen, and the first step that counts."""
        return {"mean": self._mean.state(), "step": self._step, "first": self._first}

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from a result of `state`."""
        self._mean.load(state["mean"])
        self._step, self._first = state["step"], state["first"]
