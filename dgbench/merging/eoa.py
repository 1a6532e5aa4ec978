"""Ensemble of averages: several runs' moving averages vote."""

from __future__ import annotations

from dgbench.core.cards import MergerCard
from dgbench.methods.merger import Merger


class EoA(Merger):
    """f(x) = (1/M) sum_m f_m(x), f_m the logits of run m's moving average (SMA).

    Arpit, Wang, Zhou and Xiong, "Ensemble of Averages: Improving Model Selection and Boosting Performance in Domain
    Generalization", NeurIPS 2022. Each f_m is taken at its own best validation accuracy; runs need not begin alike.

    Departures from the authors' code: the mean of the logits, not their sum (the same class); as many members as the
    trial has runs, where the paper takes 6 (3 hyperparameter draws of 2 trials).
    """

    card = MergerCard(
        paper="Arpit et al., NeurIPS 2022", average="SMA", ensemble=True, shared_init=False, min_members=2
    )
