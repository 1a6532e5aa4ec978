"""TIES merging: trim small displacements, elect a sign for each weight, and average the members that have it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch

from dgbench.core.cards import MergerCard
from dgbench.core.space import Checked, hparam
from dgbench.merging._task_vectors import TaskVectors
from dgbench.methods.average import Weights
from dgbench.methods.merger import Member, Merger, Tools


class TIES(Merger):
    r"""Average the displacements of all runs of a trial, each weight over those runs that moved it the elected way.

    $$
    \gamma = \mathrm{sign} \Big( \sum_{m=1}^{M} \hat\tau_m \Big), \qquad
    \bar\tau = \mathop{\mathrm{mean}}_{m:\ \mathrm{sign}(\hat\tau_m) = \gamma} \hat\tau_m, \qquad
    \theta = \theta_0 + \lambda\, \bar\tau
    $$

    All operations are elementwise. $\theta_0$ are the weights that the $M$ members started from,
    $\tau_m = \theta_m - \theta_0$, and $\hat\tau_m$ is $\tau_m$ with its `keep` share of largest magnitudes, over all
    tensors together, and 0 elsewhere. $\lambda$ is `scale`. A weight that no member moved the elected way stays at
    $\theta_0$.

    Reference:
        Yadav, Tam, Choshen, Raffel and Bansal, "TIES-Merging: Resolving Interference When Merging Models",
        NeurIPS 2023.

    Departures from the authors' code:

    - Exactly the `keep` share is kept, more only where magnitudes tie; theirs keeps one weight more.
    - Where displacements sum to exactly 0 nothing is elected; theirs takes the sign that most weights have.
    - Batch-norm statistics are averaged uniformly.
    """

    card = MergerCard(
        paper="Yadav et al., NeurIPS 2023",
        link="https://arxiv.org/abs/2306.01708",
        tags=("averaging", "pretraining"),
        changes_equal="small displacements are trimmed",
    )

    @dataclass(frozen=True)
    class Hparams(Checked):
        """Hyperparameters of TIES; the defaults are those that the authors recommend without validation data."""

        keep: float = hparam(0.2, help="share of each run's displacements that is kept", within="(0, 1]")
        scale: float = hparam(1.0, help="factor on the merged displacement, the paper's lambda", within="(0, inf)")

    hparams: Hparams

    @torch.no_grad()
    def merge(self, members: Sequence[Member], tools: Tools) -> Weights:
        """Return the merged weights; members are read twice, and five copies of the model are in memory."""
        vectors = TaskVectors(members, tools)

        def trimmed() -> Iterable[Weights]:
            return (trim(vector, self.hparams.keep) for vector in vectors)

        return vectors.moved(mean_of_elected(trimmed), self.hparams.scale)


def trim(vector: Weights, keep: float) -> Weights:
    """Return a displacement with its largest magnitudes alone, over all tensors together, and 0 elsewhere.

    Args:
        vector: Name -> tensor.
        keep: Share of the numbers that stays, at least one.
    """
    magnitudes = torch.cat([tensor.abs().flatten() for tensor in vector.values()])
    dropped = len(magnitudes) - max(1, math.floor(keep * len(magnitudes) + 0.5))
    if dropped == 0:
        return vector
    least = magnitudes.kthvalue(dropped + 1).values
    return {name: torch.where(tensor.abs() >= least, tensor, 0) for name, tensor in vector.items()}


def mean_of_elected(vectors: Callable[[], Iterable[Weights]]) -> Weights:
    """Return the elementwise mean of those displacements that have the sign of their sum; 0 where none has.

    Args:
        vectors: Yields the displacements, the same ones each time; called twice.
    """
    total = Weights()
    for vector in vectors():
        for name, tensor in vector.items():
            total[name] = total[name] + tensor if name in total else tensor
    mean = {name: torch.zeros_like(tensor) for name, tensor in total.items()}
    count = {name: torch.zeros_like(tensor) for name, tensor in total.items()}
    for vector in vectors():
        for name, tensor in vector.items():
            elected = (tensor.sign() == total[name].sign()) & (tensor != 0)
            count[name] += elected
            mean[name] += torch.where(elected, tensor, 0)
    return {name: tensor / count[name].clamp(min=1) for name, tensor in mean.items()}
