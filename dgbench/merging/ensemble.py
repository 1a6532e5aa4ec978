"""A plain ensemble: several runs' best models vote."""

from __future__ import annotations

from dgbench.core.cards import MergerCard
from dgbench.methods.merger import Merger


class Ensemble(Merger):
    """f(x) = (1/M) sum_m f_m(x), f_m the logits of run m's model at its best validation accuracy.

    Lakshminarayanan, Pritzel and Blundell, "Simple and Scalable Predictive Uncertainty Estimation using Deep
    Ensembles", NeurIPS 2017. Runs need not begin alike. It is to `EoA` what a model is to its moving average, and to
    `DiWA` what the mean of the outputs is to that of the weights.

    Departures: logits are averaged, as EoA's authors do, where the paper averages probabilities; members differ in
    their hyperparameters and may share their initial weights, where the paper's differ in the initial weights alone;
    no adversarial training.
    """

    card = MergerCard(paper="Lakshminarayanan et al., NeurIPS 2017", ensemble=True, shared_init=False)
