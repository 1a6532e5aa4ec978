"""A coefficient for each part of the network, searched one after the other by validation accuracy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from dgbench.core.cards import MergerCard
from dgbench.core.space import Checked, hparam
from dgbench.merging._task_vectors import TaskVectors
from dgbench.merging.lines import depths_of
from dgbench.methods.merger import Member, Merged, Merger, Tools


class LayerSearch(Merger):
    r"""Add the mean displacement of all runs of a trial to their start, scaled part by part of the network.

    $$
    \theta^{(k)} = \theta_0^{(k)} + \frac{a_k}{M} \sum_{m=1}^{M} \big( \theta_m^{(k)} - \theta_0^{(k)} \big), \qquad
    k = 1, \dots, K
    $$

    The modules of the network are cut into $K$ = `parts` of about equally many, by depth; $\theta_0$ are the weights
    that the $M$ members started from. All $a_k$ begin at 1, which is `DiWA`. From the deepest part to the shallowest
    each takes that value of a grid of `points` from 0 to `most` at which the accuracy on the pooled validation parts of
    the training domains is highest; a tie keeps the value closest to 1. The record names all of them.

    Reference:
        Yang, Wang, Shen, Liu, Guo, Wang and Tao, "AdaMerging: Adaptive Model Merging for Multi-Task Learning",
        ICLR 2024, for coefficients by layer.

    Departures from the paper, which learns a coefficient for each layer of each task by the entropy of predictions on
    the unlabelled test data of all tasks: nothing of a test domain is read. Coefficients are those of the mean of all
    members, of parts instead of layers, and found greedily by labels of the training domains. Batch-norm statistics are
    averaged uniformly.
    """

    card = MergerCard(
        paper="after Yang et al., ICLR 2024",
        link="https://arxiv.org/abs/2310.02575",
        tags=("averaging", "pretraining"),
        changes_equal="each part of the network is scaled as its accuracy is best",
    )

    @dataclass(frozen=True)
    class Hparams(Checked):
        """Hyperparameters of LayerSearch; validation parts are evaluated `parts` times `points` times."""

        parts: int = hparam(5, help="parts of the network, by depth", within="[1, inf)")
        points: int = hparam(7, help="values of the grid, evenly from 0", within="[2, inf)")
        most: float = hparam(1.5, help="the largest coefficient", within="(0, inf)")

    hparams: Hparams

    @torch.no_grad()
    def candidates(self, members: Sequence[Member], tools: Tools) -> Iterator[Merged]:
        """Yield the model of the coefficients found; three copies of the model are in memory."""
        h, vectors = self.hparams, TaskVectors(members, tools)
        part = {name: min(int(depth * h.parts), h.parts - 1) for name, depth in depths_of(vectors.names).items()}
        # Near 1 first, and a later value has to be better.
        grid = sorted((i / (h.points - 1) * h.most for i in range(h.points)), key=lambda value: abs(value - 1))
        coefficients = [1.0] * h.parts

        def score(k: int, value: float) -> float:
            tried = [*coefficients[:k], value, *coefficients[k + 1 :]]
            return tools.score(vectors.moved(vectors.mean, {name: tried[i] for name, i in part.items()}))

        best = tools.score(vectors.moved(vectors.mean))
        for k in sorted(set(part.values()), reverse=True):
            for value in grid:
                if value != coefficients[k] and (accuracy := score(k, value)) > best:
                    best, coefficients[k] = accuracy, value
        weights = vectors.moved(vectors.mean, {name: coefficients[i] for name, i in part.items()})
        yield Merged(weights, members, {f"part {k + 1}": value for k, value in enumerate(coefficients)})
