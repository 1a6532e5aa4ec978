"""SWAD: dense averaging over the valley of the validation loss."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from dgbench.core.cards import AverageCard
from dgbench.core.space import Checked, hparam
from dgbench.methods.average import Average, RunningMean, Weights

FORMS = ("official", "paper")
_LOG = logging.getLogger(__name__)


class _Segment(NamedTuple):
    """The steps that end at an evaluation: its step, the live model's validation loss there, their mean weights."""

    step: int
    loss: float
    weights: Weights


class SWAD(Average):
    """mean of the weights after every step from t_s to t_e, where the validation loss stops falling and rises again.

    Cha, Chun, Lee, Cho, Park, Lee and Park, "SWAD: Domain Generalization by Seeking Flat Minima", NeurIPS 2021.

    Segment i is the mean of the weights after each optimizer step since evaluation i-1; l_i is the live model's loss at
    evaluation i, the unweighted mean over the training domains. With N_s = n_converge, N_e = n_tolerance and
    r = 1 + tolerance_ratio:

        t_s = first i with l_i = min(l_i, ..., l_{i+Ns-1});   threshold = r * mean(l_i, ..., l_{i+Ns-1})
        t_e = first i >= t_s with min(l_i, ..., l_{i+Ne-1}) > threshold;   result = mean of segments t_s, ..., t_e - 1

    Where the run ends first, windows are cut off at its end. A run that never converged gives its last segment: see
    `converged`, and a warning is logged.

    `form="paper"` is just that. `form="official"` is the authors' LossValley with all that it does besides:
      * with N_e > N_s, convergence also takes in up to N_e - N_s segments before t_s with a loss within the threshold,
        but the oldest of them, and t_s itself, which comes a second time when the smoothing queue's head reaches it;
      * an early t_s, found before the queue is full, stays its head and is added at every evaluation until it is full;
      * with N_e <= N_s, t_s is not added at all: the first segment that is added replaces it;
      * at the end of a run the head of the queue is dropped, then the others are added while their minimum is low.

    Departures from the authors' code: buffers are averaged like parameters (live batch norm's statistics are measured
    afresh on 500 minibatches, as there); training goes on after the valley (its own rows need it);
    there is an evaluation, so a segment, at the last step also where the interval doesn't divide it. The paper's
    tolerance_ratio for VLCS is 0.2.
    """

    card = AverageCard(paper="Cha et al., NeurIPS 2021", when="end", copies=8.0)

    @dataclass(frozen=True)
    class Hparams(Checked):
        """The paper's values."""

        n_converge: int = hparam(
            3, help="N_s, evaluations that must not fall below the first of them", within="[1, inf)"
        )
        n_tolerance: int = hparam(6, help="N_e, evaluations that must all lie above the threshold", within="[1, inf)")
        tolerance_ratio: float = hparam(
            0.3, help="r - 1, by how much the threshold exceeds the loss at convergence", within="[0, inf)"
        )
        form: str = hparam("official", help="the authors' code or their paper", options=FORMS)

    hparams: Hparams

    def __init__(self, hparams: Any) -> None:
        super().__init__(hparams)
        self.threshold = 0.0
        """Validation loss above which the valley ends, from convergence on."""
        self.converged_step = -1
        """The step of t_s; -1 until it is known."""
        self.dead = False
        """The valley has ended: nothing more is observed."""
        self._segment = RunningMean()
        self._queue: list[_Segment] = []  # The latest, on the host; at most max(N_s, N_e).
        self._valley = RunningMean()

    @property
    def converged(self) -> bool:
        """Whether there is a valley; if not, the weights are the last segment's."""
        return self.converged_step >= 0

    def observe(self, weights: Mapping[str, Tensor]) -> None:
        """Take the live weights into the current segment."""
        if not self.dead:
            self._segment.add(weights)

    def validate(self, step: int, losses: Mapping[str, float], accuracies: Mapping[str, float]) -> None:
        """Close the segment, and see whether the valley has begun or ended."""
        if self.dead:
            return
        mean = _on_host(self._segment.mean)
        self._segment = RunningMean()
        self._queue.append(_Segment(step, sum(losses.values()) / len(losses), mean))
        del self._queue[: -max(self.hparams.n_converge, self.hparams.n_tolerance)]
        if not self.converged:
            self._converge()
        elif self.hparams.form == "official":
            self._follow_official()
        else:
            self._follow_paper()
        if self.dead:
            self._queue = []

    def weights(self) -> Weights | None:
        """The average over the valley as if the run ended now, on the host; None before the first evaluation."""
        if self.dead:
            return self._valley.mean
        if not self.converged:
            if not self._queue:
                return None
            _LOG.warning("SWAD found no valley: these weights are the mean since the last evaluation but one")
            return self._queue[-1].weights
        result = copy.deepcopy(self._valley)
        rest = self._smoothed()[1:] if self.hparams.form == "official" else self._queue
        for i, segment in enumerate(rest):
            if _lowest(rest[i:]) > self.threshold:
                break
            result.add(segment.weights)
        return result.mean

    def _converge(self) -> None:
        latest = self._queue[-self.hparams.n_converge :]
        first = latest[0]
        if len(latest) < self.hparams.n_converge or _lowest(latest) < first.loss:
            return
        self.converged_step = first.step
        self.threshold = sum(s.loss for s in latest) / len(latest) * (1 + self.hparams.tolerance_ratio)
        if self.hparams.form == "paper":
            self._queue = latest
            self._follow_paper()
            return
        self._valley.add(first.weights)
        self._valley.count = 0  # The next one replaces it, if there is one.
        for segment in self._added_at_convergence(latest):
            self._valley.add(segment.weights)

    def _added_at_convergence(self, latest: Sequence[_Segment]) -> Sequence[_Segment]:
        surplus = self.hparams.n_tolerance - self.hparams.n_converge
        if surplus <= 0:
            return latest[1 : 1 - surplus]
        candidates = self._smoothed()[: surplus + 1]
        too_high = [i for i, segment in enumerate(candidates) if segment.loss > self.threshold]
        oldest = too_high[-1] + 1 if too_high else 0
        return candidates[oldest + 1 :]

    def _follow_official(self) -> None:
        smoothed = self._smoothed()
        if smoothed[0].step < self.converged_step:
            return
        if _lowest(smoothed) > self.threshold:
            self.dead = True
        else:
            self._valley.add(smoothed[0].weights)

    def _follow_paper(self) -> None:
        while len(self._queue) >= self.hparams.n_tolerance and not self.dead:
            if _lowest(self._queue[: self.hparams.n_tolerance]) > self.threshold:
                self.dead = True
            else:
                self._valley.add(self._queue.pop(0).weights)

    def _smoothed(self) -> list[_Segment]:
        """The authors' smoothing queue: the latest N_e segments."""
        return self._queue[-self.hparams.n_tolerance :]

    def state(self) -> dict[str, Any]:
        """The current segment, those that wait, and what is known of the valley."""
        return {
            "threshold": self.threshold,
            "converged_step": self.converged_step,
            "dead": self.dead,
            "segment": self._segment.state(),
            "queue": [segment._asdict() for segment in self._queue],
            "valley": self._valley.state(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` gave."""
        self.threshold, self.converged_step, self.dead = (state[k] for k in ("threshold", "converged_step", "dead"))
        self._segment.load(state["segment"])
        self._queue = [_Segment(s["step"], s["loss"], _on_host(s["weights"])) for s in state["queue"]]
        self._valley.load({**state["valley"], "mean": _on_host(state["valley"]["mean"])})


def _on_host(weights: Weights) -> Weights:
    return {name: tensor.cpu() for name, tensor in weights.items()}


def _lowest(segments: Sequence[_Segment]) -> float:
    return min(segment.loss for segment in segments)
