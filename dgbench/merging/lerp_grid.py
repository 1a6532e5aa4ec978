"""The line from the best run to the mean of the others, with a model at each point of a grid to choose from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from dgbench.core.cards import MergerCard
from dgbench.core.space import Checked, hparam
from dgbench.methods.average import RunningMean, Weights
from dgbench.methods.merger import Member, Merged, Merger, Tools


class LERPGrid(Merger):
    r"""Interpolate between the best run of a trial and the mean of the others, as far as the selector chooses.

    $$
    \theta = (1 - \alpha)\, \theta_b + \frac{\alpha}{M - 1} \sum_{m \neq b} \theta_m
    $$

    $\theta_b$ are the weights of the run with the highest validation accuracy of $M$. The values of $\alpha$ are a grid
    of `points` from 0 to 1, and are candidates as the steps of a run are. The last candidate is $\alpha = (M - 1) / M$,
    the uniform mean of all, which is `DiWA`. Of two runs it is the line between them, so its records hold what a
    barrier between the two is measured from: the error at each point, in each domain.

    Reference:
        Frankle, Dziugaite, Roy and Carbin, "Linear Mode Connectivity and the Lottery Ticket Hypothesis", ICML 2020, for
        the line between two; Wortsman et al., "Robust Fine-Tuning of Zero-Shot Models", CVPR 2022, for choosing a model
        on it.

    Departures from the papers: the first measures the line and chooses nothing on it, the second begins at the initial
    weights (`WiSEFT`); with more than two runs the far end is the mean of all but the best. Integer tensors are the
    best run's.
    """

    card = MergerCard(paper="Frankle et al., ICML 2020", link="https://arxiv.org/abs/1912.05671", tags=("averaging",))

    @dataclass(frozen=True)
    class Hparams(Checked):
        """Hyperparameters of LERPGrid."""

        points: int = hparam(11, help="alphas of the grid, evenly from 0 to 1", within="[2, inf)")

    hparams: Hparams

    @property
    def choices(self) -> int:
        """Return the number of candidates: the grid, and the uniform mean."""
        return self.hparams.points + 1

    @torch.no_grad()
    def candidates(self, members: Sequence[Member], tools: Tools) -> Iterator[Merged]:
        """Yield a model for each alpha, exact at both ends; three copies of the model are in memory."""
        # Of equally accurate runs the first is the best: `max` keeps it.
        best = max(range(len(members)), key=lambda i: members[i].accuracy)
        near, far = members[best].load(), RunningMean()
        for i, member in enumerate(members):
            if i != best:
                far.add(member.load())
        points = self.hparams.points
        for alpha in (*(i / (points - 1) for i in range(points)), (len(members) - 1) / len(members)):
            yield Merged(_between(near, far.mean, alpha), members, {"alpha": alpha})


def _between(near: Weights, far: Weights, alpha: float) -> Weights:
    """Return the point on the line from `near` to `far`; integer tensors are those of `near`."""
    return {name: torch.lerp(one, far[name], alpha) if one.is_floating_point() else one for name, one in near.items()}
