"""Ensemble of averages: the mean of the logits of several runs' moving averages."""

from __future__ import annotations

from dgbench.core.cards import MergerCard
from dgbench.methods.merger import Merger


class EoA(Merger):
    r"""Average the logits of the moving averages (SMA) of all runs of a trial.

    $$
    f(x) = \frac1M \sum_{m=1}^{M} f_m(x)
    $$

    $f_m$ are the logits of run $m$'s moving average (SMA), taken at its own best training-domain validation accuracy.
    Runs may start from different weights.

    Reference:
        Arpit, Wang, Zhou and Xiong, "Ensemble of Averages: Improving Model Selection and Boosting Performance in Domain
        Generalization", NeurIPS 2022.

    Departures from the authors' code: the mean of the logits is taken, not their sum, which gives the same class. There
    are as many members as the trial has runs; the paper takes 6 (3 hyperparameter draws of 2 trials).
    """

    card = MergerCard(
        paper="Arpit et al., NeurIPS 2022",
        link="https://arxiv.org/abs/2110.10832",
        tags=("ensembling", "averaging"),
        average="SMA",
        ensemble=True,
        shared_init=False,
        min_members=2,
    )
