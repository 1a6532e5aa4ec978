"""Connectivity: whether the runs of a trial lie in one basin, by the models on the lines between them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dgbench.analyses._lines import BARRIERS, LAYER, LAYERS, LINE, BetweenModels, LayerHparams
from dgbench.core.cards import AnalysisCard
from dgbench.methods.analysis import Finding, FinishedModel, Views


class Connectivity(BetweenModels):
    r"""Score the models on the lines between the runs of a trial, whole and layer by layer, and find the barriers.

    $$
    B = \max_{\alpha \in [0, 1]} E\big((1 - \alpha)\,\theta_1 + \alpha\,\theta_2\big)
    - (1 - \alpha)\, E(\theta_1) - \alpha\, E(\theta_2)
    $$

    $E$ is the error or the loss of a view. Runs without a barrier between them lie in one basin, and their weights can
    be averaged. Of more pairs of runs than `lines`, some are drawn. In the pairs of `layer_lines`, each layer by itself
    also moves from the first model's weights to the second's, all others stay: how far that raises the error tells
    where runs differ. A layer is a module that has weights.

    Units are not permuted. With live batch norm, statistics are measured on minibatches of training at each point, at
    the ends too, as for merged models.

    Reference:
        Frankle, Dziugaite, Roy and Carbin, "Linear Mode Connectivity and the Lottery Ticket Hypothesis", ICML 2020;
        Adilova, Andriushchenko, Kamp, Fischer and Jaggi, "Layer-Wise Linear Mode Connectivity", ICLR 2024, for layers.

    Departures from the first: the error of the ends is interpolated, where theirs is its mean at both.
    """

    card = AnalysisCard(
        paper="Frankle et al., ICML 2020",
        link="https://arxiv.org/abs/1912.05671",
        tags=("averaging", "flat-minima"),
        takes="trial",
        needs=("classes",),
        examples="examples",
        passes=((1, "points", "lines"), (20, "layer_points", "layer_lines")),  # of twenty layers
        measures={**BARRIERS, **LAYERS},
        series={"line": LINE, "layers": LAYER},
    )

    @dataclass(frozen=True)
    class Hparams(LayerHparams):
        """Hyperparameters of Connectivity."""

    hparams: Hparams

    def end(self, model: FinishedModel) -> str:
        """Return the name of a model as the end of a line."""
        return f"draw {model.hparams_seed}"

    def measure(self, models: Sequence[FinishedModel], data: Views) -> Iterator[Finding]:
        """Yield lines and layers of each training and held-out view."""
        network, pairs = models[0].load(), self.pairs(models, self.end)
        yield from self.between(network, pairs, data)
        yield from self.by_layer(network, pairs, data)
