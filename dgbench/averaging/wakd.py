"""WAKD: the mean of all weights from an early step to the last, chosen by nobody."""

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
    """theta = mean of theta_t over t > start x steps, t counted from 1; one model, when training is over.

    Berezovskiy and Morozov, "Weight Averaging Improves Knowledge Distillation under Domain Shift", ICCV workshops 2023:
    no validation, made for students (`KD+WAKD`) that train long. With a validated choice of the step it is `SMA`.

    Departure from the authors' code: the first step is a share of the run, theirs is the 5,000th of 50,000.
    """

    card = AverageCard(paper="Berezovskiy and Morozov, ICCV-W 2023", when="end")

    @dataclass(frozen=True)
    class Hparams(Checked):
        """The paper's share."""

        start: float = hparam(0.1, help="share of the steps that pass before any weights count", within="[0, 1)")

    hparams: Hparams

    def __init__(self, hparams: Any) -> None:
        super().__init__(hparams)
        self._mean = RunningMean()
        self._step = 0
        self._first = 0

    def begin(self, weights: Mapping[str, Tensor], steps: int) -> None:
        """Learn which step is the first that counts."""
        self._first = min(steps, math.floor(self.hparams.start * steps) + 1)

    def observe(self, weights: Mapping[str, Tensor]) -> None:
        """Take the weights in, from the first step that counts."""
        self._step += 1
        if self._step >= self._first:
            self._mean.add(weights)

    def weights(self) -> Weights | None:
        """The mean; None before the first step that counts."""
        return self._mean.mean or None

    def state(self) -> dict[str, Any]:
        """The mean, and where the run is."""
        return {"mean": self._mean.state(), "step": self._step, "first": self._first}

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` gave."""
        self._mean.load(state["mean"])
        self._step, self._first = state["step"], state["first"]
