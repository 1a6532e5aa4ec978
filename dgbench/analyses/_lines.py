"""Score models on lines between others: what the analyses of connectivity share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from dgbench.core.cards import SeriesCard
from dgbench.core.connectivity import line_barrier
from dgbench.core.space import Checked, hparam
from dgbench.methods.analysis import Analysis, Columns, Finding, FinishedModel, Views
from dgbench.methods.average import Weights
from dgbench.methods.between import Mixture, layers_of, scores_of

Pairs = Mapping[str, tuple[Callable[[], Weights], Callable[[], Weights]]]
"""Name of a line -> what reads the weights at its two ends."""
BARRIERS: Mapping[str, str] = {
    "barrier": "highest rise of the error above the line between the ends, mean over lines",
    "loss_barrier": "the same of the loss",
}
"""Measures of lines."""
LAYERS: Mapping[str, str] = {
    "layer_barrier": "highest rise of the error on the way of one layer to the other model, mean over layers",
    "worst_layer": "the same of the layer in which it is largest",
}
"""Measures of layers that move alone."""
LINE = SeriesCard(
    title="Loss and accuracy between models",
    drawing="lines",
    labels={"alpha": "from the first to the second", "loss": "loss", "accuracy": "accuracy", "line": "line"},
    x="alpha",
    values=("loss", "accuracy"),
    by=("line",),
    caption="Loss and accuracy of the weights between two models: the first at 0, the second at 1.",
)
"""The series of lines."""
LAYER = SeriesCard(
    title="One layer moves at a time",
    drawing="lines",
    labels={
        "depth": "layer, from the input",
        "layer": "name of the layer",
        "loss": "highest rise of the loss",
        "error": "highest rise of the error",
        "line": "line",
    },
    x="depth",
    values=("loss", "error"),
    by=("line",),
    caption="The first model with one layer on its way to the second model: the highest rise of loss and error there.",
)
"""The series of layers."""


@dataclass(frozen=True)
class LineHparams(Checked):
    """Hyperparameters of analyses of lines."""

    examples: int = hparam(256, help="most examples of each view", within="[1, inf)")
    batch_size: int = hparam(256, help="examples at once, which changes memory alone", within="[1, inf)")
    points: int = hparam(11, help="points of a line, both ends among them", within="[3, inf)")
    minibatches: int = hparam(
        50, help="most minibatches to measure live batch norm on, at each point", within="[1, inf)"
    )


@dataclass(frozen=True)
class LayerHparams(LineHparams):
    """Hyperparameters of analyses of lines between several models."""

    lines: int = hparam(6, help="most pairs of models, drawn if there are more", within="[1, inf)")
    layer_lines: int = hparam(1, help="pairs of models of which layers move alone; 0: none", within="[0, inf)")
    layer_points: int = hparam(2, help="points on the way of a layer, its end among them", within="[1, inf)")


class OnLines(Analysis):
    """Scores of models on lines."""

    hparams: LineHparams

    def between(self, network: nn.Module, pairs: Pairs, data: Views) -> Iterator[Finding]:
        """Yield the series `line` and the measures `BARRIERS` of each training and held-out view."""
        h = self.hparams
        alphas = np.linspace(0, 1, h.points).tolist()
        mixtures = {name: self._mixture(ends, data) for name, ends in pairs.items()}
        for view in data.contrasted:
            batches, errors, losses = data.examples(view, h.examples, h.batch_size), list[float](), list[float]()
            for name, mixture in mixtures.items():
                found = []
                for alpha in alphas:
                    found.append(scores_of(network, mixture.at((1 - alpha, alpha)), batches))
                    yield view, {}
                loss, accuracy = (list(values) for values in zip(*found, strict=True))
                yield (
                    view,
                    {"line": {"alpha": alphas, "loss": loss, "accuracy": accuracy, "line": [name] * len(alphas)}},
                )
                errors.append(line_barrier(alphas, [1 - value for value in accuracy]))
                losses.append(line_barrier(alphas, loss))
            yield view, {"barrier": float(np.mean(errors)), "loss_barrier": float(np.mean(losses))}

    def _mixture(self, ends: tuple[Callable[[], Weights], Callable[[], Weights]], data: Views) -> Mixture:
        minibatches = self.hparams.minibatches
        return Mixture([read() for read in ends], lambda weights: data.statistics(weights, minibatches))


class BetweenModels(OnLines):
    """Scores of models on lines between several models, and with one layer on its way at a time."""

    hparams: LayerHparams

    def pairs(self, models: Sequence[FinishedModel], name: Callable[[FinishedModel], str]) -> Pairs:
        """Return the lines between all pairs of models, or as many of them as are wanted, drawn.

        Args:
            models: The models.
            name: Returns the name of a model.
        """
        every = [(i, j) for j in range(len(models)) for i in range(j)]
        chosen = list(range(len(every)))
        if len(every) > self.hparams.lines:
            drawn = np.random.default_rng(self.generator.initial_seed()).permutation(len(every))
            chosen = sorted(drawn[: self.hparams.lines].tolist())
        pairs = [(models[i], models[j]) for i, j in (every[place] for place in chosen)]
        return {f"{name(one)} to {name(other)}": (one.weights, other.weights) for one, other in pairs}

    def by_layer(self, network: nn.Module, pairs: Pairs, data: Views) -> Iterator[Finding]:
        """Yield the series `layers` and the measures `LAYERS` of each training and held-out view."""
        h = self.hparams
        mixtures = {name: self._mixture(ends, data) for name, ends in [*pairs.items()][: h.layer_lines]}
        if not mixtures:
            return
        ways = np.linspace(0, 1, h.layer_points + 1)[1:].tolist()
        for view in data.contrasted:
            batches, errors = data.examples(view, h.examples, h.batch_size), list[float]()
            for name, mixture in mixtures.items():
                start = scores_of(network, mixture.at((1.0, 0.0)), batches)
                for depth, (layer, tensors) in enumerate(layers_of(mixture.ends[0]).items(), 1):
                    found = [scores_of(network, mixture.at((1 - way, way), tensors), batches) for way in ways]
                    loss = max(0.0, *(one - start[0] for one, _ in found))
                    errors.append(max(0.0, *(start[1] - accuracy for _, accuracy in found)))
                    line: Columns = {
                        "depth": [depth],
                        "layer": [layer],
                        "loss": [loss],
                        "error": errors[-1:],
                        "line": [name],
                    }
                    yield view, {"layers": line}
            yield view, {"layer_barrier": float(np.mean(errors)), "worst_layer": max(errors)}
