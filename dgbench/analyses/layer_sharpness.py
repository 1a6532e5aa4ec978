"""Layer sharpness: how much the loss rises when the weights of one layer move and all others stay."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dgbench.core.cards import AnalysisCard, SeriesCard
from dgbench.core.space import Checked, hparam
from dgbench.methods.analysis import Analysis, Columns, Finding, FinishedModel, Views, surface_of
from dgbench.methods.curvature import Estimate
from dgbench.methods.sharpness import adaptive_scale, average_sharpness, step_sharpness


class LayerSharpness(Analysis):
    r"""Measure which layers make the loss sharp: move the weights of one at a time, on each domain.

    $$
    S_l = \mathbb{E}_{\delta \sim \mathcal{N}(0, \rho^2 \mathrm{diag}(\theta_l^2))} L(\theta + \delta) - L(\theta),
    \qquad
    R_l = L(\theta + \rho_2 \, \theta_l^2 g / \lVert \theta_l g \rVert_2) - L(\theta)
    $$

    $\theta_l$ holds the weights of layer $l$ and zeros elsewhere, $L$ is the mean cross-entropy in evaluation mode and
    $g$ its gradient, and products are elementwise. $S_l$ is the mean rise under random moves in proportion to the
    weights, as of `Sharpness`, each with its opposite, so that the slope cancels; for small moves of a network without
    norms the layers' add up to that of all weights.
    $R_l$ is the rise after the one step, to the edge of the layer's adaptive ball, that is steepest. A layer is a
    module with weights of two or more axes, biases included; norms are none.

    Reference:
        Zhang, Bengio and Singer, "Are All Layers Created Equal?", JMLR 2022; Andriushchenko, Croce, Müller, Hein and
        Flammarion, "A Modern Look at the Relationship between Sharpness and Generalization", ICML 2023, for the ball.

    Departures from the first: the weights of a layer move within a ball around them; theirs are set back to their
    start, or drawn anew.
    """

    card = AnalysisCard(
        paper="Zhang et al., JMLR 2022",
        link="https://arxiv.org/abs/1902.01996",
        tags=("flat-minima",),
        needs=("classes",),
        examples="examples",
        passes=((3,), (20,), (40, "draws")),  # of twenty layers, about those of a ResNet-18
        measures={
            "highest": "mean rise of the loss under random moves of the layer where it is highest",
            "share": "that layer's share of the rises of all layers",
            "depth": "where the rises lie: 0 in the first layer, 1 in the last",
            "highest_step": "largest rise after the steepest step of one layer",
        },
        series={
            "layers": SeriesCard(
                title="Rise of the loss when one layer moves",
                drawing="lines",
                labels={
                    "layer": "layer, from the input on",
                    "name": "module",
                    "average": "mean rise, random moves",
                    "error": "standard error of the mean rise",
                    "step": "rise, steepest step",
                },
                x="layer",
                values=("average", "step"),
                caption="The last layer is the classifier.",
            )
        },
    )

    @dataclass(frozen=True)
    class Hparams(Checked):
        """Hyperparameters of LayerSharpness; sizes of balls are those of `Sharpness`."""

        examples: int = hparam(512, help="most examples of each view", within="[1, inf)")
        batch_size: int = hparam(128, help="examples at once, which changes memory alone", within="[1, inf)")
        draws: int = hparam(3, help="random moves of each layer, each with its opposite", within="[2, inf)")
        rho_average: float = hparam(0.1, help="deviation of the random moves", within="(0, inf)")
        rho_l2: float = hparam(0.5, help="radius of a layer's ball", within="(0, inf)")

    hparams: Hparams

    def measure(self, models: Sequence[FinishedModel], data: Views) -> Iterator[Finding]:
        """Yield the measures of each view, and the rises of its layers."""
        network, h = models[0].load(), self.hparams
        for view in data.all:
            surface = surface_of(network, data.examples(view, h.examples, h.batch_size))
            scale, layers = adaptive_scale(surface.origin), surface.layers()
            means, steps = list[Estimate](), list[float]()
            for own in layers.values():
                steps.append(step_sharpness(surface, h.rho_l2, scale * own))
                axes = scale * own
                means.append(
                    average_sharpness(surface, h.rho_average, axes, "l2", h.draws, self.generator, mirrored=True)
                )
                yield view, {}
            rises = np.array([mean.value for mean in means])
            yield view, {**_summary(rises), "highest_step": max(steps)}
            columns: Columns = {
                "layer": list(range(1, len(layers) + 1)),
                "name": list(layers),
                "average": rises,
                "error": [mean.error for mean in means],
                "step": steps,
            }
            yield view, {"layers": columns}


def _summary(rises: NDArray[np.float64]) -> dict[str, float]:
    """Return the measures of the rises (layers,) under random moves; a layer whose move lowers the loss has none."""
    rises = np.maximum(rises, 0)
    total, last = float(rises.sum()), max(len(rises) - 1, 1)
    return {
        "highest": float(rises.max()),
        "share": float(rises.max()) / total if total else np.nan,
        "depth": float(rises @ np.arange(len(rises))) / last / total if total else np.nan,
    }
