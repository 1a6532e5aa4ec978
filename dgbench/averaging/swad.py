"""SWAD: dense averaging of the weights over the valley of the validation loss.

The run is cut into segments, each from one evaluation to the next. `observe` keeps the mean of the current segment;
`validate` closes it, and decides whether the valley has begun, whether it has ended, and which segments belong to it.
"""

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
"""The authors' code with its side effects, and the procedure as their paper describes it."""
_LOG = logging.getLogger(__name__)


class _Segment(NamedTuple):
    """Steps that end at an evaluation: the last one, the live model's validation loss there, and their mean weights."""

    step: int
    loss: float
    weights: Weights


class SWAD(Average):
    r"""Average the weights after every step from where the validation loss stops falling until it rises.

    $$
    \bar\theta = \mathrm{mean}(S_{t_s}, \dots, S_{t_e - 1}), \qquad
    \begin{aligned}
    t_s &= \text{first } i \text{ with } l_i = \min(l_i, \dots, l_{i + N_s - 1}), \\
    t_e &= \text{first } i \ge t_s \text{ with } \min(l_i, \dots, l_{i + N_e - 1}) >
    r\, \mathrm{mean}(l_{t_s}, \dots, l_{t_s + N_s - 1})
    \end{aligned}
    $$

    $S_i$, segment $i$, is the mean of the weights after each optimizer step since evaluation $i - 1$. $l_i$ is the live
    model's loss at evaluation $i$, the unweighted mean over the training domains' validation parts. $N_s$ is
    `n_converge`, $N_e$ is `n_tolerance` and $r$ is 1 + `tolerance_ratio`. Windows are cut off at the end of the run. A
    run that never converges gives its last segment and logs a warning; see `converged`.

    `form="paper"` is just that. `form="official"`, the default, is the authors' LossValley with its side effects:

    - With $N_e > N_s$, convergence also adds up to $N_e - N_s$ segments before $t_s$ with a loss within the threshold,
      the oldest of them excepted, and $t_s$ itself, which comes a second time when the head of the smoothing queue
      reaches it.
    - An early $t_s$, found before the queue is full, stays its head and is added at every evaluation until it is full.
    - With $N_e \le N_s$, $t_s$ is not added at all: the first segment that is added replaces it.
    - At the end of a run the head of the queue is dropped; then the others are added while their minimum is low.

    Reference:
        Cha, Chun, Lee, Cho, Park, Lee and Park, "SWAD: Domain Generalization by Seeking Flat Minima", NeurIPS 2021.

    Departures from the authors' code: buffers are averaged like parameters (the statistics of live batch norm are
    measured afresh on 500 minibatches, as in theirs). Training goes on after the valley, since the run's own rows need
    it. The last step is evaluated even if the interval does not divide it, so there is a segment that ends at it. The
    paper's `tolerance_ratio` for VLCS is 0.2.
    """

    card = AverageCard(
        paper="Cha et al., NeurIPS 2021",
        link="https://arxiv.org/abs/2102.08604",
        tags=("averaging", "flat-minima"),
        when="end",
        copies=8.0,
    )

    @dataclass(frozen=True)
    class Hparams(Checked):
        """Hyperparameters of SWAD; the values are the paper's."""

        n_converge: int = hparam(
            3, help="N_s, evaluations that must not fall below the first of them", within="[1, inf)"
        )
        n_tolerance: int = hparam(6, help="N_e, evaluations that must all lie above the threshold", within="[1, inf)")
        tolerance_ratio: float = hparam(
            0.3, help="r - 1, by how much the threshold exceeds the loss at convergence", within="[0, inf)"
        )
        form: str = hparam("official", help="procedure of the authors' code, or of their paper", options=FORMS)

    hparams: Hparams

    def __init__(self, hparams: Any) -> None:
        super().__init__(hparams)
        self.threshold = 0.0
        """Validation loss above which the valley ends; 0 before convergence."""
        self.converged_step = -1
        """Step of t_s; -1 before convergence."""
        self.dead = False
        """The valley has ended, so nothing more is observed."""
        self._segment = RunningMean()
        self._queue: list[_Segment] = []  # The latest, on the host; at most max(N_s, N_e).
        self._valley = RunningMean()

    @property
    def converged(self) -> bool:
        """Return whether a valley was found; if not, the weights are the last segment's."""
        return self.converged_step >= 0

    def observe(self, weights: Mapping[str, Tensor]) -> None:
        """Add the live weights to the current segment."""
        if not self.dead:
            self._segment.add(weights)

    def validate(self, step: int, losses: Mapping[str, float], accuracies: Mapping[str, float]) -> None:
        """Close the segment, and find out whether the valley has begun or ended."""
        if self.dead:
            return
        # On the host: up to max(N_s, N_e) segments are waiting, each of the size of the model.
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
        """Return the average over the valley as if the run ended now, on the host; None before the first evaluation."""
        if self.dead:
            return self._valley.mean
        if not self.converged:
            if not self._queue:
                return None
            _LOG.warning("SWAD found no valley: these weights are the mean since the last evaluation but one")
            return self._queue[-1].weights
        result = copy.deepcopy(self._valley)
        # What the authors' code does at the end of a run, done on a copy: the run may go on.
        rest = self._smoothed()[1:] if self.hparams.form == "official" else self._queue
        for i, segment in enumerate(rest):
            if _lowest(rest[i:]) > self.threshold:
                break
            result.add(segment.weights)
        return result.mean

    def _converge(self) -> None:
        """Begin the valley if none of the latest N_s losses is below the first of them."""
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
        """Return the segments that the authors' code adds to the valley at convergence, beside t_s."""
        surplus = self.hparams.n_tolerance - self.hparams.n_converge
        if surplus <= 0:
            return latest[1 : 1 - surplus]
        candidates = self._smoothed()[: surplus + 1]
        too_high = [i for i, segment in enumerate(candidates) if segment.loss > self.threshold]
        oldest = too_high[-1] + 1 if too_high else 0
        # The walk back from t_s ends at a segment above the threshold; LossValley then leaves out one more.
        return candidates[oldest + 1 :]

    def _follow_official(self) -> None:
        """Add the head of the smoothing queue to the valley, or end the valley."""
        smoothed = self._smoothed()
        if smoothed[0].step < self.converged_step:
            return
        if _lowest(smoothed) > self.threshold:
            self.dead = True
        else:
            self._valley.add(smoothed[0].weights)

    def _follow_paper(self) -> None:
        """Move segments into the valley as long as the N_e from each on are known and not all above the threshold."""
        while len(self._queue) >= self.hparams.n_tolerance and not self.dead:
            if _lowest(self._queue[: self.hparams.n_tolerance]) > self.threshold:
                self.dead = True
            else:
                self._valley.add(self._queue.pop(0).weights)

    def _smoothed(self) -> list[_Segment]:
        """Return the authors' smoothing queue: the latest N_e segments."""
        return self._queue[-self.hparams.n_tolerance :]

    def state(self) -> dict[str, Any]:
        """Return the current segment, the waiting segments, and all that is known of the valley."""
        return {
            "threshold": self.threshold,
            "converged_step": self.converged_step,
            "dead": self.dead,
            "segment": self._segment.state(),
            "queue": [segment._asdict() for segment in self._queue],
            "valley": self._valley.state(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from a result of `state`."""
        self.threshold, self.converged_step, self.dead = (state[k] for k in ("threshold", "converged_step", "dead"))
        self._segment.load(state["segment"])
        self._queue = [_Segment(s["step"], s["loss"], _on_host(s["weights"])) for s in state["queue"]]
        self._valley.load({**state["valley"], "mean": _on_host(state["valley"]["mean"])})


def _on_host(weights: Weights) -> Weights:
    return {name: tensor.cpu() for name, tensor in weights.items()}


def _lowest(segments: Sequence[_Segment]) -> float:
    return min(segment.loss for segment in segments)
