"""Stochastic weight averaging: a learning rate that keeps weights moving, and the mean of where they come by."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dgbench.core.cards import AverageCard
from dgbench.core.errors import UserError
from dgbench.core.space import Checked, hparam
from dgbench.methods.average import Average, RunningMean, Weights

FORMS = ("constant", "cyclic")
_LOG = logging.getLogger(__name__)


class SWA(Average):
    """mean of theta_S, theta_{S+c}, theta_{S+2c}, ..., while from S on the learning rate is `factor` of its full value.

    Izmailov, Podoprikhin, Garipov, Vetrov and Wilson, "Averaging Weights Leads to Wider Optima and Better
    Generalization", UAI 2018. theta_t are the weights after t optimizer steps, S = start * steps, c = `cycle`. Step t
    (from 0) has its learning rate multiplied by

        1 for t <= S/2;  `factor` for t >= 0.9 S;  between them it falls linearly
        in the form cyclic, for t >= S:  (1 - s) * factor + s * lowest,  s = ((t - S) mod c + 1) / c

    so that a cycle ends where weights are taken. This comes on top of the setting's schedule, which is best constant.

    Departures from the authors' code: steps where it counts epochs (theirs takes weights after each epoch, and has the
    constant rate alone; the cyclic one is the paper's); learning rates as shares of the run's; buffers are averaged
    like parameters (live batch norm's statistics are measured afresh, each minibatch weighing alike). `start` is that
    of the authors' commands (epoch 161 of 300), `factor` that for residual networks on CIFAR-100 (0.05 of 0.1);
    `cycle` and `lowest` are ours: 100 steps of 32 images a domain are about an epoch of most of DomainBed's data sets.
    """

    card = AverageCard(paper="Izmailov et al., UAI 2018", when="always", feeds_back=("learning_rate",))

    @dataclass(frozen=True)
    class Hparams(Checked):
        """When to average, and the learning rate."""

        start: float = hparam(
            0.54, help="share of the run's steps after which weights are first taken", within="(0, 1]"
        )
        cycle: int = hparam(100, help="c, steps from one taking to the next", within="[1, inf)")
        form: str = hparam("constant", help="the learning rate from the start on", options=FORMS)
        factor: float = hparam(
            0.5, help="share of the learning rate from the start on; the highest of a cycle", within="(0, inf)"
        )
        lowest: float = hparam(
            0.01, help="share of the learning rate at the end of a cycle, in the form cyclic alone", within="[0, inf)"
        )

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.lowest > self.factor:
                raise UserError(f"lowest must not be above factor, {self.factor}, but it is {self.lowest}")

    hparams: Hparams

    def __init__(self, hparams: Any) -> None:
        super().__init__(hparams)
        self._seen, self._start = 0, 0
        self._mean = RunningMean()

    def begin(self, weights: Mapping[str, Tensor], steps: int) -> None:
        """Learn when to start."""
        self._start = max(1, round(self.hparams.start * steps))
        if self._start + self.hparams.cycle > steps:
            _LOG.warning(
                "SWA takes the weights after step %d alone: the next would be %d steps later, and %d remain",
                self._start,
                self.hparams.cycle,
                steps - self._start,
            )

    def observe(self, weights: Mapping[str, Tensor]) -> None:
        """Take the live weights, if it is time."""
        self._seen += 1
        since = self._seen - self._start
        if since >= 0 and since % self.hparams.cycle == 0:
            self._mean.add(weights)

    def lr_factor(self, step: int) -> float:
        """The rule above."""
        factor, since = self.hparams.factor, step - self._start
        if since >= 0 and self.hparams.form == "cyclic":
            s = (since % self.hparams.cycle + 1) / self.hparams.cycle
            return (1 - s) * factor + s * self.hparams.lowest
        fallen = min(max(step / self._start - 0.5, 0) / 0.4, 1)
        return 1 - (1 - factor) * fallen

    def weights(self) -> Weights | None:
        """The mean now; None before the start."""
        return self._mean.mean or None

    def state(self) -> dict[str, Any]:
        """Steps seen, the start, and the mean."""
        return {"seen": self._seen, "start": self._start, "mean": self._mean.state()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` gave."""
        self._seen, self._start = state["seen"], state["start"]
        self._mean.load(state["mean"])
