"""RowConnectivity: whether the models of several rows lie in one basin."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dgbench.analyses._lines import BARRIERS, LAYER, LAYERS, LINE, BetweenModels, LayerHparams
from dgbench.core.cards import AnalysisCard
from dgbench.methods.analysis import Finding, FinishedModel, Views


class RowConnectivity(BetweenModels):
    """Score the models on the lines between rows, whole and layer by layer, and find the barriers.

    It is `Connectivity` with a model of each row, of the same trial and draw, in place of the runs of a trial: between
    ERM and its average, between ERM and SAM. Rows begin with the same weights where the setting says so (`init`).

    Reference:
        Frankle, Dziugaite, Roy and Carbin, "Linear Mode Connectivity and the Lottery Ticket Hypothesis", ICML 2020;
        Adilova, Andriushchenko, Kamp, Fischer and Jaggi, "Layer-Wise Linear Mode Connectivity", ICLR 2024, for layers.
    """

    card = AnalysisCard(
        paper="Frankle et al., ICML 2020",
        link="https://arxiv.org/abs/1912.05671",
        tags=("averaging", "flat-minima"),
        takes="rows",
        needs=("classes",),
        examples="examples",
        passes=((1, "points", "lines"), (20, "layer_points", "layer_lines")),  # of twenty layers
        measures={**BARRIERS, **LAYERS},
        series={"line": LINE, "layers": LAYER},
    )

    @dataclass(frozen=True)
    class Hparams(LayerHparams):
        """Hyperparameters of RowConnectivity."""

    hparams: Hparams

    def measure(self, models: Sequence[FinishedModel], data: Views) -> Iterator[Finding]:
        """Yield lines and layers of each training and held-out view."""
        network, pairs = models[0].load(), self.pairs(models, lambda model: model.row)
        yield from self.between(network, pairs, data)
        yield from self.by_layer(network, pairs, data)
