"""A weight average for dgbench. It watches any algorithm's run, by the name behind the `+`.

dgbench train --include mine.py --algorithm ERM+MyAverage --dataset RotatedDigits --test 75
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dgbench import Average, AverageCard, Checked, RunningMean, Weights, hparam


class MyAverage(Average):
    """Average the weights after every `every`-th optimizer step."""

    card = AverageCard(paper="Author et al., Venue Year", when="always")  # `always`: evaluated whenever the model is

    @dataclass(frozen=True)
    class Hparams(Checked):
        """Hyperparameters of MyAverage."""

        every: int = hparam(1, help="steps from one model of the mean to the next", within="[1, inf)")

    hparams: Hparams

    def __init__(self, hparams: Any) -> None:
        super().__init__(hparams)
        self.step, self.mean = 0, RunningMean()

    def observe(self, weights: Mapping[str, Tensor]) -> None:
        """Look at the live weights after an optimizer step, without changing them."""
        self.step += 1
        if self.step % self.hparams.every == 0:
            self.mean.add(weights)

    def weights(self) -> Weights | None:
        """Return the averaged weights, or None while there are none."""
        return self.mean.mean or None

    def state(self) -> dict[str, Any]:
        """Return everything that a resumed run must know again."""
        return {"step": self.step, "mean": self.mean.state()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore the state that `state` returned."""
        self.step = state["step"]
        self.mean.load(state["mean"])
