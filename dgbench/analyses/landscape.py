"""Landscape: loss and accuracy along a line and over a plane through a model's weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from dgbench.core.cards import AnalysisCard, SeriesCard
from dgbench.core.space import Checked, hparam
from dgbench.methods.analysis import Analysis, Batches, Finding, FinishedModel, Views, surface_of
from dgbench.methods.between import scores_of
from dgbench.methods.curvature import gaussian, lanczos
from dgbench.methods.directions import filter_normalized
from dgbench.methods.surface import Surface


class Landscape(Analysis):
    r"""Draw loss and accuracy around a model, along a line and over a plane through its weights, on each domain.

    $$
    f(x, y) = L(\theta + x\,\delta + y\,\eta), \qquad
    \delta_i \leftarrow \frac{\delta_i}{\lVert \delta_i \rVert} \lVert \theta_i \rVert
    $$

    In a `random` plane $\delta$ and $\eta$ are Gaussian, and each filter $i$ of them is scaled to the length of the
    same filter of the weights, so that networks that differ in the scale of their layers alone have the same picture.
    In a `hessian` plane they are the eigenvectors of the two largest eigenvalues of the Hessian of the loss on all
    training domains, as `steps` of Lanczos' iteration find them, both as long as all filters together: 1 is as far as
    in a random plane. The loss is steepest there, so give a smaller `radius`, such as 0.2. The line is along $\delta$.
    Biases and parameters of normalization stay in a random plane.

    The network is in evaluation mode: statistics of batch norm are the model's own everywhere. `rise` and `drop` are
    means over the plane.

    Reference:
        Li, Xu, Taylor, Studer and Goldstein, "Visualizing the Loss Landscape of Neural Nets", NeurIPS 2018.

    Departures from the authors' code: eigenvectors are scaled as a whole; theirs are scaled filter by filter, which
    makes other directions of them.
    """

    card = AnalysisCard(
        paper="Li et al., NeurIPS 2018",
        link="https://arxiv.org/abs/1712.09913",
        tags=("flat-minima",),
        needs=("classes",),
        examples="examples",
        passes=((1, "points"), (1, "grid", "grid")),
        measures={
            "rise": "mean rise of the loss over the plane",
            "drop": "mean fall of the accuracy over the plane",
        },
        series={
            "line": SeriesCard(
                title="Loss and accuracy along a line",
                drawing="lines",
                labels={"x": "move in lengths of filters", "loss": "loss", "accuracy": "accuracy"},
                x="x",
                values=("loss", "accuracy"),
                logarithmic=("loss",),
                caption="Loss and accuracy where the weights move along one direction; the models are at 0.",
            ),
            "plane": SeriesCard(
                title="Loss and accuracy over a plane",
                drawing="map",
                labels={"x": "first direction", "y": "second direction", "loss": "loss", "accuracy": "accuracy"},
                x="x",
                y="y",
                values=("loss", "accuracy"),
                logarithmic=("loss",),
                caption="Loss and accuracy where the weights move in a plane; the models are at its center. Moves are "
                "in lengths of filters. Colors mean the same in all panels of a value.",
            ),
        },
    )

    @dataclass(frozen=True)
    class Hparams(Checked):
        """Hyperparameters of Landscape; the radius is the authors'."""

        examples: int = hparam(256, help="most examples of each view", within="[1, inf)")
        batch_size: int = hparam(256, help="examples at once, which changes memory alone", within="[1, inf)")
        plane: str = hparam("random", help="directions of the plane: random or hessian", options=("random", "hessian"))
        radius: float = hparam(1.0, help="largest move along a direction, in lengths of filters", within="(0, inf)")
        points: int = hparam(25, help="points of the line", within="[3, inf)")
        grid: int = hparam(11, help="points of the plane along each direction", within="[3, inf)")
        steps: int = hparam(20, help="products with the Hessian, of a hessian plane", within="[2, inf)")

    hparams: Hparams

    def measure(self, models: Sequence[FinishedModel], data: Views) -> Iterator[Finding]:
        """Yield line and plane of each training and held-out view."""
        network, h = models[0].load(), self.hparams
        first, second = self._directions(network, data)
        along, ticks = np.linspace(-h.radius, h.radius, h.points), np.linspace(-h.radius, h.radius, h.grid)
        x, y = (axis.ravel() for axis in np.meshgrid(ticks, ticks))
        for view in data.contrasted:
            batches = data.examples(view, h.examples, h.batch_size)
            surface = surface_of(network, batches)

            def score(move: Tensor, surface: Surface = surface, batches: Batches = batches) -> tuple[float, float]:
                return scores_of(network, surface.named(surface.origin + move), batches)

            found = list[tuple[float, float]]()
            for a in along.tolist():
                found.append(score(a * first))
                yield view, {}
            yield view, {"line": {"x": along, **_named(found)}}
            found = []
            for a, b in zip(x.tolist(), y.tolist(), strict=True):
                found.append(score(a * first + b * second))
                yield view, {}
            start_loss, start_accuracy = score(torch.zeros_like(first))
            losses, accuracies = np.array(found).T
            yield (
                view,
                {
                    "plane": {"x": x, "y": y, **_named(found)},
                    "rise": float(np.mean(losses)) - start_loss,
                    "drop": start_accuracy - float(np.mean(accuracies)),
                },
            )

    def _directions(self, network: nn.Module, data: Views) -> tuple[Tensor, Tensor]:
        """Return the two directions of the plane (size,)."""
        h = self.hparams
        batches = [batch for view in data.training for batch in data.examples(view, h.examples, h.batch_size)]
        surface = surface_of(network, batches)
        if h.plane == "random":
            drawn = gaussian(2, surface.size, self.generator, surface.origin)
            first, second = (self._normalized(surface, direction) for direction in drawn)
            return first, second
        start = gaussian(1, surface.size, self.generator, surface.origin)[0]
        found = lanczos(surface.products, start, h.steps).vectors
        length = torch.cat([w.flatten() for w in surface.named(surface.origin).values() if w.ndim > 1]).norm()
        return length * found[-1], length * found[-2]

    @staticmethod
    def _normalized(surface: Surface, direction: Tensor) -> Tensor:
        scaled = filter_normalized(surface.named(direction), surface.named(surface.origin))
        return torch.cat([scaled[name].flatten() for name in surface.shapes])


def _named(found: Sequence[tuple[float, float]]) -> dict[str, list[float]]:
    return {"loss": [loss for loss, _ in found], "accuracy": [accuracy for _, accuracy in found]}
