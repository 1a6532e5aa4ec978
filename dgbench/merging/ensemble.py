"""A plain ensemble: the mean of the logits of several runs' best models."""

from __future__ import annotations

from dgbench.core.cards import MergerCard
from dgbench.methods.merger import Merger


class Ensemble(Merger):
    r"""Average the logits of the best models of all runs of a trial.

    $$
    f(x) = \frac1M \sum_{m=1}^{M} f_m(x)
    $$

    $f_m$ are the logits of run $m$'s model at its best training-domain validation accuracy. Runs may start from
    different weights. It is to `EoA` as a model is to its moving average, and to `DiWA` as the mean of the outputs is
    to that of the weights.

    Reference:
        Lakshminarayanan, Pritzel and Blundell, "Simple and Scalable Predictive Uncertainty Estimation using Deep
        Ensembles", NeurIPS 2017.

    Departures from the paper: logits are averaged, as by the authors of EoA, not probabilities. Members differ in their
    hyperparameters and may share their initial weights; the paper's differ in the initial weights alone. There is no
    adversarial training.
    """

    card = MergerCard(
        paper="Lakshminarayanan et al., NeurIPS 2017",
        link="https://arxiv.org/abs/1612.01474",
        tags=("ensembling",),
        ensemble=True,
        shared_init=False,
    )
