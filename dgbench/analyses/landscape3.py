"""Landscape3: loss and accuracy over the plane through three models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dgbench.core.cards import AnalysisCard, SeriesCard
from dgbench.core.space import Checked, hparam
from dgbench.methods.analysis import Analysis, Finding, FinishedModel, Views
from dgbench.methods.average import Weights
from dgbench.methods.between import Mixture, scores_of
from dgbench.methods.directions import plane_through


class Landscape3(Analysis):
    r"""Draw loss and accuracy over the plane through the models of three rows, such as ERM, its average, and SAM.

    $$
    \theta(x, y) = \theta_1 + x\,u + y\,v, \qquad u = \theta_2 - \theta_1, \quad
    v \perp u, \quad \lVert v \rVert = \lVert u \rVert
    $$

    The first model is the origin and the second lies at $(1, 0)$; the third is on the side of positive $y$. Angles and
    lengths are those of the weights that the networks share, buffers left out. The grid reaches beyond the models by
    `margin` of their extent. The three models are marked, and scored too.

    With live batch norm, statistics are measured on minibatches of training at each point, at the models too.

    Reference:
        Izmailov, Podoprikhin, Garipov, Vetrov and Wilson, "Averaging Weights Leads to Wider Optima and Better
        Generalization", UAI 2018; Garipov, Izmailov, Podoprikhin, Vetrov and Wilson, "Loss Surfaces, Mode Connectivity,
        and Fast Ensembling of DNNs", NeurIPS 2018.
    """

    card = AnalysisCard(
        paper="Izmailov et al., UAI 2018",
        link="https://arxiv.org/abs/1803.05407",
        tags=("averaging", "flat-minima"),
        takes="rows",
        models=3,
        needs=("classes",),
        examples="examples",
        passes=((1, "grid", "grid"),),
        measures={
            "gain": "accuracy at the best point of the grid, less that of the best of the three models",
            "center_gain": "accuracy of the mean of the three models' weights, less the mean of theirs",
        },
        series={
            "plane": SeriesCard(
                title="Loss and accuracy over the plane through three models",
                drawing="map",
                labels={
                    "x": "from the first to the second",
                    "y": "towards the third",
                    "loss": "loss",
                    "accuracy": "accuracy",
                    "model": "model",
                },
                x="x",
                y="y",
                values=("loss", "accuracy"),
                by=("model",),
                logarithmic=("loss",),
                caption="Loss and accuracy over the plane of weights through three models, which are marked. Both axes "
                "have one unit, the distance between the first two. Colors mean the same in all panels of a value.",
            )
        },
    )

    @dataclass(frozen=True)
    class Hparams(Checked):
        """Hyperparameters of Landscape3."""

        examples: int = hparam(256, help="most examples of each view", within="[1, inf)")
        batch_size: int = hparam(256, help="examples at once, which changes memory alone", within="[1, inf)")
        grid: int = hparam(13, help="points of the plane along each axis", within="[3, inf)")
        margin: float = hparam(0.25, help="reach beyond the models, in shares of their extent", within="[0, inf)")
        minibatches: int = hparam(
            50, help="most minibatches to measure live batch norm on, at each point", within="[1, inf)"
        )

    hparams: Hparams

    def measure(self, models: Sequence[FinishedModel], data: Views) -> Iterator[Finding]:
        """Yield the plane of each training and held-out view."""
        h, network = self.hparams, models[0].load()
        ends = [model.weights() for model in models]
        names = [name for name, _ in network.named_parameters() if name in ends[0]]
        marks = self._marks(models, [_joined(weights, names) for weights in ends])
        mixture = Mixture(ends, lambda weights: data.statistics(weights, h.minibatches))
        x, y = (axis.ravel() for axis in np.meshgrid(*(self._ticks(axis) for axis in np.array(marks).T)))
        places = [*zip(x.tolist(), y.tolist(), strict=True), *marks]
        along, up = marks[2]
        # A point of the plane is this combination of the models, which holds for all tensors of theirs alike.
        shares = [(1 - a - (b / up) * (1 - along), a - (b / up) * along, b / up) for a, b in places[: len(x)]]
        shares += [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)]
        for view in data.contrasted:
            batches, found = data.examples(view, h.examples, h.batch_size), []
            for share in shares:
                found.append(scores_of(network, mixture.at(share), batches))
                yield view, {}
            center = scores_of(network, mixture.at((1 / 3, 1 / 3, 1 / 3)), batches)[1]
            loss, accuracy = (list(values) for values in zip(*found, strict=True))
            columns = {
                "x": [a for a, _ in places],
                "y": [b for _, b in places],
                "loss": loss,
                "accuracy": accuracy,
                "model": [*[""] * len(x), *(model.row for model in models)],
            }
            gains = {
                "gain": max(accuracy[: len(x)]) - max(accuracy[len(x) :]),
                "center_gain": center - float(np.mean(accuracy[len(x) :])),
            }
            yield view, {"plane": columns, **gains}

    @staticmethod
    def _marks(models: Sequence[FinishedModel], points: Sequence[Tensor]) -> list[tuple[float, float]]:
        """Return the coordinates of the models; raise RuntimeError if they make no plane."""
        try:
            _, _, marks = plane_through(*points)
        except ValueError:
            rows = ", ".join(model.row for model in models)
            raise RuntimeError(f"the weights of {rows} lie on one line, so there is no plane through them") from None
        return marks

    def _ticks(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        reach = self.hparams.margin * (values.max() - values.min())
        return np.linspace(values.min() - reach, values.max() + reach, self.hparams.grid)


def _joined(weights: Weights, names: Sequence[str]) -> Tensor:
    """Return some weights as one vector in double precision."""
    return torch.cat([weights[name].flatten().double() for name in names])
