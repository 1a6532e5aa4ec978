"""Stochastic weight averaging: a learning rate that keeps the weights moving, and their mean along the way."""

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
"""The course of the learning rate from the start on."""
_LOG = logging.getLogger(__name__)


class SWA(Average):
    r"""Average weights taken at intervals while the learning rate stays high.

    $$
    \bar\theta = \mathrm{mean}\big(\theta_S, \theta_{S + c}, \theta_{S + 2c}, \dots\big)
    $$

    $\theta_t$ are the weights after $t$ optimizer steps, $S$ is `start` × steps and $c$ is `cycle`. The learning rate
    of step $t$, counted from 0, is multiplied by 1 until $S / 2$ and by `factor` from $0.9 S$ on; between them the
    multiplier falls linearly. In the form `cyclic`, it is for $t \ge S$

    $$
    (1 - s) \cdot \texttt{factor} + s \cdot \texttt{lowest}, \qquad s = \frac{((t - S) \bmod c) + 1}{c},
    $$

    so that a cycle ends where weights are taken. This comes on top of the setting's schedule, which is best constant.

    Reference:
        Izmailov, Podoprikhin, Garipov, Vetrov and Wilson, "Averaging Weights Leads to Wider Optima and Better
        Generalization", UAI 2018.

    Departures from the authors' code:

    - Steps are counted where it counts epochs: theirs takes weights after each epoch, and has the constant rate alone
      (the cyclic one is the paper's).
    - Learning rates are shares of the run's.
    - Buffers are averaged like parameters (the statistics of live batch norm are measured afresh, all minibatches
      weighing alike).
    """

    card = AverageCard(
        paper="Izmailov et al., UAI 2018",
        link="https://arxiv.org/abs/1803.05407",
        tags=("averaging", "flat-minima"),
        when="always",
        feeds_back=("learning_rate",),
    )

    @dataclass(frozen=True)
    class Hparams(Checked):
        """Hyperparameters of SWA: when to average, and the learning rate meanwhile.

        `start` is that of the authors' commands (epoch 161 of 300), `factor` that for residual networks on CIFAR-100
        (0.05 of 0.1). `cycle` and `lowest` are ours: 100 steps of 32 images a domain are about an epoch of most of
        DomainBed's data sets.
        """

        start: float = hparam(
            0.54, help="share of the run's steps after which weights are first taken", within="(0, 1]", begins="share"
        )
        cycle: int = hparam(100, help="c, steps between weights that are taken", within="[1, inf)")
        form: str = hparam("constant", help="course of the learning rate from the start on", options=FORMS)
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
        """Compute the start; warn if a single model will be taken."""
        self._start = max(1, round(self.hparams.start * steps))
        if self._start + self.hparams.cycle > steps:
            _LOG.warning(
                "SWA takes the weights after step %d alone: the next would be %d steps later, and %d remain",
                self._start,
                self.hparams.cycle,
                steps - self._start,
            )

    def observe(self, weights: Mapping[str, Tensor]) -> None:
        """Add the live weights to the mean, at the start and every `cycle` steps after it."""
        self._seen += 1
        since = self._seen - self._start
        if since >= 0 and since % self.hparams.cycle == 0:
            self._mean.add(weights)

    def lr_factor(self, step: int) -> float:
        """Return the multiplier of every learning rate in `step`, counted from 0, as the class describes it."""
        factor, since = self.hparams.factor, step - self._start
        if since >= 0 and self.hparams.form == "cyclic":
            s = (since % self.hparams.cycle + 1) / self.hparams.cycle
            return (1 - s) * factor + s * self.hparams.lowest
        # From 0 at half of the start to 1 at 0.9 of it: the authors' schedule.
        fallen = min(max(step / self._start - 0.5, 0) / 0.4, 1)
        return 1 - (1 - factor) * fallen

    def weights(self) -> Weights | None:
        """Return the mean now, or None before the start."""
        return self._mean.mean or None

    def state(self) -> dict[str, Any]:
        """Return the number of steps seen, the start, and the mean."""
        return {"seen": self._seen, "start": self._start, "mean": self._mean.state()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from a result of `state`."""
        self._seen, self._start = state["seen"], state["start"]
        self._mean.load(state["mean"])
