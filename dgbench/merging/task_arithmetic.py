"""Task arithmetic: add the runs' displacements from their start, by as much as the selector finds best."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from dgbench.core.cards import MergerCard
from dgbench.core.space import Checked, hparam
from dgbench.merging._grid import rising
from dgbench.merging._task_vectors import TaskVectors
from dgbench.methods.merger import Member, Merged, Merger, Tools


class TaskArithmetic(Merger):
    r"""Add the mean displacement of all runs of a trial to their start, scaled as the selector chooses.

    $$
    \theta = \theta_0 + \frac{\alpha}{M} \sum_{m=1}^{M} \tau_m, \qquad \tau_m = \theta_m - \theta_0
    $$

    $\theta_0$ are the weights that all $M$ members started from, $\tau_m$ is the task vector of member $m$. The values
    of $\alpha$ are a grid of `points` from 0 to `most`, and are candidates as the steps of a run are. The `recommended`
    one comes last, since a selector that looks at the last step alone takes that: at $\alpha = 1$ the model is that of
    `DiWA`, above it goes further than the members on the way that they share.

    Reference:
        Ilharco, Ribeiro, Wortsman, Schmidt, Hajishirzi and Farhadi, "Editing Models with Task Arithmetic", ICLR 2023.

    Departures from the authors' code:

    - The sum is divided by $M$: members of a sweep learn one task, which must not count $M$ times. $\alpha = M$ is the
      paper's $\lambda = 1$.
    - Batch-norm statistics are averaged uniformly; theirs move like weights, but integer tensors stay as they were.
    """

    card = MergerCard(
        paper="Ilharco et al., ICLR 2023",
        link="https://arxiv.org/abs/2212.04089",
        tags=("averaging", "pretraining"),
    )

    @dataclass(frozen=True)
    class Hparams(Checked):
        """Hyperparameters of TaskArithmetic; the grid has the paper's number of values."""

        points: int = hparam(21, help="alphas of the grid, evenly from 0", within="[2, inf)")
        most: float = hparam(2.0, help="the largest alpha", within="(0, inf)")
        recommended: float = hparam(1.0, help="the alpha to take where nothing chooses", within="[0, inf)")

    hparams: Hparams

    @cached_property
    def alphas(self) -> tuple[float, ...]:
        """Return the grid in rising order, but for the recommended value, which is last."""
        return rising(self.hparams.points, self.hparams.most, self.hparams.recommended)

    @property
    def choices(self) -> int:
        """Return the number of candidates, one for each alpha."""
        return len(self.alphas)

    @torch.no_grad()
    def candidates(self, members: Sequence[Member], tools: Tools) -> Iterator[Merged]:
        """Yield a model for each alpha; three copies of the model are in memory."""
        vectors = TaskVectors(members, tools)
        for alpha in self.alphas:
            yield Merged(vectors.moved(vectors.mean, alpha), members, {"alpha": alpha})
