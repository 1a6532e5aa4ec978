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
    """theta_ema(t) = d_t theta_ema(t-1) + (1 - d_t) theta_t, d_t = min(decay, t / (t + 1)); theta_ema(0) = theta_0.

    Tarvainen and Valpola, "Mean teachers are better role models: Weight-averaged consistency targets improve
    semi-supervised deep learning results", NeurIPS 2017: their teacher's weights, without their consistency loss. t
    counts optimizer steps from 1; theta_0 are the initial weights. Until decay < t / (t + 1) it is the uniform mean.

    Departures from the authors' code: it starts at the live model's initial weights (there at others of its own);
    buffers are averaged like parameters (there the teacher's batch norm sees minibatches).
    """

    card = AverageCard(paper="Tarvainen and Valpola, NeurIPS 2017", when="always", batch_norm="averaged")

    @dataclass(frozen=True)
    class Hparams(Checked):
        """The authors' default."""

        decay: float = hparam(0.999, help="how much of the average is kept from step to step", within="[0, 1)")

    hparams: Hparams

    def __init__(self, hparams: Any) -> None:
        super().__init__(hparams)
        self._seen = 0
        self._mean: Weights = {}

    def begin(self, weights: Mapping[str, Tensor], steps: int) -> None:
        """Start at the initial weights."""
        self._mean = copied(weights)

    def observe(self, weights: Mapping[str, Tensor]) -> None:
        """One step of the recurrence."""
        self._seen += 1
        move_towards(self._mean, weights, 1 - min(self.hparams.decay, self._seen / (self._seen + 1)))

    def weights(self) -> Weights | None:
        """The average now."""
        return self._mean

    def state(self) -> dict[str, Any]:
        """Steps seen, and the average."""
        return {"seen": self._seen, "mean": self._mean}

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` gave."""
        self._seen, self._mean = state["seen"], dict(state["mean"])


class SwitchEMA(EMA):
    """EMA, and after each evaluation theta <- theta_ema: training goes on from the average, with its optimizer as is.

    Li, Liu, Tian, Wang, Wang, Jin, Wu, Tan, Lin, Liu, Sun and Li, "Switch EMA: A Free Lunch for Better Flatness and
    Sharpness", arXiv:2402.09240, 2024. The average itself goes on, too.

    The paper switches once an epoch, and so does this, where an epoch ends at each evaluation: that after the first
    step is one of a single step. The authors' two codes say otherwise of `switch_interval`: one switches in epochs
    that it divides, the other, in which 1 means never, in all that it doesn't.

    Departures from the authors' code: the decay rises as EMA's does (there, in some configurations, from 0.9 of its
    value in the first five epochs, in which nothing is switched either); buffers are averaged and switched like
    parameters (there if `full_params_ema` says so). The default decay is theirs for epochs of 48 (AgeDB) and 500 steps
    (CIFAR-100); for ImageNet it is 0.9999.
    """

    card = AverageCard(paper="Li et al., 2024", when="always", feeds_back=("weights",), batch_norm="averaged")

    def feedback(self) -> Weights | None:
        """The average."""
        return self._mean
