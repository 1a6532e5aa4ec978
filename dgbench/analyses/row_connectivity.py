"""RowConnectivity: whether the models of several rows lie in one basin."""

from __future__ import annotations

from dataclasses import replace

from dgbench.analyses.connectivity import Connectivity
from dgbench.methods.analysis import FinishedModel


class RowConnectivity(Connectivity):
    """Score the models on the lines between rows, whole and layer by layer, and find the barriers.

    It is `Connectivity` with a model of each row, of the same trial and draw, in place of the runs of a trial: between
    ERM and its average, between ERM and SAM. Rows begin with the same weights where the setting says so (`init`).

    Reference:
        Frankle, Dziugaite, Roy and Carbin, "Linear Mode Connectivity and the Lottery Ticket Hypothesis", ICML 2020;
        Adilova, Andriushchenko, Kamp, Fischer and Jaggi, "Layer-Wise Linear Mode Connectivity", ICLR 2024, for layers.
    """

    card = replace(Connectivity.card, takes="rows")

    def end(self, model: FinishedModel) -> str:
        """Return the name of a model as the end of a line."""
        return model.row
