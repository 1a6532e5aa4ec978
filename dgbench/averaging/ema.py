"""Exponential moving averages: one that only watches, and one that training goes on from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dgbench.core.cards import AverageCard
from dgbench.core.space import Checked, hparam
from dgbench.methods.average import Average, Weights, copied, move_towards


class EMA(Average):
    r"""Average the weights along the run, with exponentially falling weight of the past.

    $$
    \bar\theta_t = d_t\, \bar\theta_{t-1} + (1 - d_t)\, \theta_t, \qquad
    d_t = \min\Big(d,\; \frac{t}{t + 1}\Big), \qquad \bar\theta_0 = \theta_0
    $$

    $\theta_t$ are the weights after optimizer step $t$, counted from 1; $\theta_0$ are the initial weights, and $d$ is
    `decay`. As long as $t / (t + 1) < d$, this is the uniform mean.

    Reference:
        Tarvainen and Valpola, "Mean teachers are better role models: Weight-averaged consistency targets improve
        semi-supervised deep learning results", NeurIPS 2017: their teacher's weights, without their consistency loss.

    Departures from the authors' code: the average starts at the live model's initial weights, there at others drawn for
    it; buffers are averaged like parameters, where their teacher's batch norm sees minibatches.
    """

    card = AverageCard(
        paper="Tarvainen and Valpola, NeurIPS 2017",
        link="https://arxiv.org/abs/1703.01780",
        tags=("averaging",),
        when="always",
        batch_norm="averaged",
    )

    @dataclass(frozen=True)
    class Hparams(Checked):
        """Hyperparameters of EMA; the default is the authors'."""

        decay: float = hparam(0.999, help="share of the average that is kept from step to step", within="[0, 1)")

    hparams: Hparams

    def __init__(self, hparams: Any) -> None:
        super().__init__(hparams)
        self._seen = 0
        self._mean: Weights = {}

    def begin(self, weights: Mapping[str, Tensor], steps: int) -> None:
        """Start at the initial weights."""
        self._mean = copied(weights)

    def observe(self, weights: Mapping[str, Tensor]) -> None:
        """Take one step of the recurrence."""
        self._seen += 1
        move_towards(self._mean, weights, 1 - min(self.hparams.decay, self._seen / (self._seen + 1)))

    def weights(self) -> Weights | None:
        """Return the average now."""
        return self._mean

    def state(self) -> dict[str, Any]:
        """Return the number of steps seen, and the average."""
        return {"seen": self._seen, "mean": self._mean}

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from a result of `state`."""
        self._seen, self._mean = state["seen"], dict(state["mean"])


class SwitchEMA(EMA):
    r"""Replace the weights by their EMA after each evaluation, and continue training from there.

    $$
    \theta \leftarrow \bar\theta \quad \text{after each evaluation}, \qquad
    \bar\theta_t = d_t\, \bar\theta_{t-1} + (1 - d_t)\, \theta_t
    $$

    $\bar\theta$ is the average of `EMA`, which goes on too. The optimizer keeps its state.

    The paper switches once an epoch. An epoch ends at each evaluation, so that the one after the first step is an epoch
    of a single step. The authors' two codes disagree on `switch_interval`: one switches in the epochs that it divides;
    the other, in which 1 means never, in all that it does not divide.

    Reference:
        Li, Liu, Tian, Wang, Wang, Jin, Wu, Tan, Lin, Liu, Sun and Li, "Switch EMA: A Free Lunch for Better Flatness and
        Sharpness", arXiv:2402.09240, 2024.

    Departures from the authors' code: the decay rises as that of `EMA` does; there, in some configurations, from 0.9 of
    its value in the first five epochs, in which nothing is switched either. Buffers are averaged and switched like
    parameters; there, if `full_params_ema` is on. The default decay is theirs for epochs of 48 (AgeDB) and 500 steps
    (CIFAR-100); for ImageNet theirs is 0.9999.
    """

    card = AverageCard(
        paper="Li et al., 2024",
        link="https://arxiv.org/abs/2402.09240",
        tags=("averaging", "flat-minima"),
        when="always",
        feeds_back=("weights",),
        batch_norm="averaged",
    )

    def feedback(self) -> Weights | None:
        """Return the average, from which training goes on."""
        return self._mean
