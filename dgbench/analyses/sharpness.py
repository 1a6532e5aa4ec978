"""Sharpness: how much the loss rises when the weights move, on average and at worst."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dgbench.core.cards import AnalysisCard
from dgbench.core.space import Checked, hparam
from dgbench.methods.analysis import Analysis, Finding, FinishedModel, Views, surface_of
from dgbench.methods.sharpness import adaptive_scale, average_sharpness, step_sharpness, worst_sharpness
from dgbench.methods.surface import Surface


class Sharpness(Analysis):
    r"""Measure how much the loss rises within balls around a model's weights, on each domain.

    $$
    S_{avg} = \mathbb{E}_{\delta \sim \mathcal{N}(0, \rho^2 \mathrm{diag}(c^2))} L(\theta + \delta) - L(\theta), \qquad
    S_{max}^p = \max_{\lVert \delta / c \rVert_p \le \rho} L(\theta + \delta) - L(\theta)
    $$

    $L$ is the mean cross-entropy of `m` examples in evaluation mode, and what is reported is the mean over groups of
    that many (m-sharpness). $c$ are the magnitudes of the weights with `adaptive`, which then measures the same for
    networks that differ in the scale of their layers alone, or else 1. $S_{max}$ is what auto-PGD finds in `steps`
    gradients, so it is a lower bound. `sam` is the rise after SAM's own step, of length `rho_sam` along the gradient;
    `box` is that of Keskar et al. in percent, within $|\delta_i| \le \epsilon (|\theta_i| + 1)$.

    Reference:
        Andriushchenko, Croce, Müller, Hein and Flammarion, "A Modern Look at the Relationship between Sharpness and
        Generalization", ICML 2023; Keskar, Mudigere, Nocedal, Smelyanskiy and Tang, "On Large-Batch Training for Deep
        Learning", ICLR 2017, for `box`.

    Departures from the authors' code:

    - A weight of 0 doesn't move in the adaptive balls; theirs skips the projection then, as its norm is not a number.
    - The search goes on from the best point together with its move after the step is halved; theirs resets one of both.
    - The adaptive step of the search in the l2 ball is the steepest, in coordinates in which the ball is round.
    - Logits are not normalized. `box` is found by the same search, in all weights; theirs is found by L-BFGS-B.
    """

    card = AnalysisCard(
        paper="Andriushchenko et al., ICML 2023",
        link="https://arxiv.org/abs/2302.07011",
        tags=("flat-minima",),
        needs=("classes",),
        examples="examples",
        passes=((10, "steps"),),
        measures={
            "average_l2": "mean rise of the loss under Gaussian moves of the weights",
            "average_l2_error": "standard error of average_l2 over the moves",
            "worst_l2": "largest rise found within an l2 ball",
            "worst_linf": "largest rise found within an l-infinity ball",
            "sam": "rise of the loss after a step of SAM",
            "box": "Keskar's sharpness, in percent",
        },
    )

    @dataclass(frozen=True)
    class Hparams(Checked):
        """Hyperparameters of Sharpness; sizes of balls are those of the paper's middle for ResNets."""

        examples: int = hparam(1024, help="most examples of each view", within="[1, inf)")
        m: int = hparam(128, help="examples of which one worst move is found", within="[1, inf)")
        steps: int = hparam(20, help="gradients of a search, and random moves of a mean", within="[2, inf)")
        adaptive: bool = hparam(True, help="balls as wide as the magnitude of each weight")
        rho_average: float = hparam(0.1, help="deviation of the random moves", within="(0, inf)")
        rho_l2: float = hparam(0.5, help="radius of the l2 ball", within="(0, inf)")
        rho_linf: float = hparam(0.002, help="radius of the l-infinity ball", within="(0, inf)")
        rho_sam: float = hparam(0.05, help="length of SAM's step", within="(0, inf)")
        epsilon: float = hparam(0.0005, help="half the width of Keskar's box", within="(0, inf)")

    hparams: Hparams

    def measure(self, models: Sequence[FinishedModel], data: Views) -> Iterator[Finding]:
        """Yield the measures of each view."""
        network, h = models[0].load(), self.hparams
        for view in data.all:
            batches = data.examples(view, h.examples, h.m)
            whole = surface_of(network, batches)
            scale = adaptive_scale(whole.origin) if h.adaptive else torch.ones_like(whole.origin)
            average = average_sharpness(whole, h.rho_average, scale, "l2", h.steps, self.generator)
            yield view, {"average_l2": average.value, "average_l2_error": average.error}
            found = [self._of_group(whole.part([batch]), scale) for batch in batches]
            weights = [len(labels) / whole.examples for _, labels in batches]
            yield (
                view,
                {name: float(np.dot(weights, [group[name] for group in found])) for name in found[0]},
            )

    def _of_group(self, surface: Surface, scale: Tensor) -> dict[str, float]:
        """Return the measures of one group of `m` examples."""
        h = self.hparams
        box = worst_sharpness(surface, h.epsilon, surface.origin.abs() + 1, "linf", h.steps)
        return {
            "worst_l2": worst_sharpness(surface, h.rho_l2, scale, "l2", h.steps),
            "worst_linf": worst_sharpness(surface, h.rho_linf, scale, "linf", h.steps),
            "sam": step_sharpness(surface, h.rho_sam),
            "box": 100 * box / (1 + surface.start[0]),
        }
