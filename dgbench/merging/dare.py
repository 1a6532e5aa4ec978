"""DARE: drop most of each run's displacements at random and scale up the rest before averaging."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from dgbench.core.cards import MergerCard
from dgbench.core.space import Checked, hparam
from dgbench.merging._task_vectors import TaskVectors
from dgbench.merging.ties import mean_of_elected
from dgbench.methods.average import RunningMean, Weights
from dgbench.methods.merger import Member, Merger, Tools


class DARE(Merger):
    r"""Average the displacements of all runs of a trial, each with a random part of its weights, scaled up.

    $$
    \hat\tau_m = \frac{(1 - z_m) \odot \tau_m}{1 - p}, \qquad z_m \sim \mathrm{Bernoulli}(p), \qquad
    \theta = \theta_0 + \frac{\lambda}{M} \sum_{m=1}^{M} \hat\tau_m
    $$

    $\theta_0$ are the weights that the $M$ members started from, $\tau_m = \theta_m - \theta_0$, $p$ is `drop` and
    $\lambda$ is `scale`. Each weight of each member is dropped independently, by the seed of the run. In expectation
    the model at $\lambda = 1$ is that of `DiWA`. With `elect` the mean of each weight is over the members that moved it
    the way of the sum, as in `TIES`.

    Reference:
        Yu, Yu, Yu, Huang and Li, "Language Models are Super Mario: Absorbing Abilities from Homologous Models as a Free
        Lunch", ICML 2024.

    Departures from the authors' code:

    - The task vectors are averaged; theirs are summed by task arithmetic or handed to another merger, which may trim
      them further.
    - Batch-norm statistics are averaged uniformly.
    """

    card = MergerCard(
        paper="Yu et al., ICML 2024",
        link="https://arxiv.org/abs/2311.03099",
        tags=("averaging", "pretraining"),
        changes_equal="displacements are dropped at random",
        in_order="each member's random numbers are drawn in its turn",
    )

    @dataclass(frozen=True)
    class Hparams(Checked):
        """Hyperparameters of DARE; `drop` is the share at which most models of the paper lose nothing."""

        drop: float = hparam(0.9, help="probability that a weight's displacement is dropped", within="[0, 1)")
        elect: bool = hparam(False, help="average over the members that have the elected sign, as TIES does")
        scale: float = hparam(1.0, help="factor on the merged displacement", within="(0, inf)")

    hparams: Hparams

    @torch.no_grad()
    def merge(self, members: Sequence[Member], tools: Tools) -> Weights:
        """Return the merged weights; five copies of the model are in memory."""
        vectors = TaskVectors(members, tools)
        # One seed a member, drawn from the run's: its mask is the same each time that the member is read.
        seeds = torch.randint(2**62, (len(members),)).tolist()

        def dropped() -> Iterator[Weights]:
            for vector, seed in zip(vectors, seeds, strict=True):
                yield drop(vector, self.hparams.drop, seed)

        if self.hparams.elect:
            return vectors.moved(mean_of_elected(dropped), self.hparams.scale)
        mean = RunningMean()
        for vector in dropped():
            mean.add(vector)
        return vectors.moved(mean.mean, self.hparams.scale)


def drop(vector: Weights, probability: float, seed: int) -> Weights:
    """Return a displacement with each number dropped at random, and the others scaled to the same expectation.

    Args:
        vector: Name -> tensor.
        probability: Of being dropped, below 1.
        seed: Of the draws, which are the same on every device.
    """
    generator = torch.Generator().manual_seed(seed)
    kept = {}
    for name, tensor in vector.items():
        mask = torch.rand(tensor.shape, generator=generator).to(tensor.device) >= probability
        kept[name] = torch.where(mask, tensor / (1 - probability), 0)
    return kept
