"""Algorithms that each break one rule, so that the conformance suite can be seen to notice."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dgbench.core.cards import AlgorithmCard
from dgbench.core.space import hparam
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.batch import Batch

_READS = itertools.count()
CARD = AlgorithmCard(paper="nobody's")


class _Joint(Algorithm):
    def loss(self, batches: Sequence[Batch]) -> Tensor:
        return self.joint_loss(batches)


class Climbs(_Joint):
    """learns: goes uphill."""

    card = CARD

    def loss(self, batches: Sequence[Batch]) -> Tensor:
        return -self.joint_loss(batches)


class Idles(_Joint):
    """moves: a module that no loss reaches."""

    card = CARD

    def build(self) -> None:
        self.context = nn.Linear(2, 2)


class Drifts(_Joint):
    """moves: a parameter that requires no gradient changes all the same."""

    card = CARD

    def build(self) -> None:
        self.anchor = nn.Parameter(torch.zeros(2), requires_grad=False)

    def loss(self, batches: Sequence[Batch]) -> Tensor:
        self.anchor.add_(1)
        return self.joint_loss(batches)


class Deaf(_Joint):
    """weights: nothing reads the weight."""

    card = AlgorithmCard(paper="nobody's", penalties=("volume",))

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        volume: float = hparam(1.0)


class Biased(Algorithm):
    """weights: at weight 0 it is not what it says."""

    card = AlgorithmCard(paper="nobody's", penalties=("volume",))

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        volume: float = hparam(1.0)

    def loss(self, batches: Sequence[Batch]) -> Tensor:
        return (2 + self.hparams.volume) * self.joint_loss(batches).square()


class Forgets(Algorithm):
    """resumes: what it remembers is no buffer."""

    card = CARD

    def build(self) -> None:
        self.mean = torch.zeros(())

    def loss(self, batches: Sequence[Batch]) -> Tensor:
        loss = self.joint_loss(batches)
        self.mean = 0.5 * self.mean + loss.detach()
        return loss * self.mean


class Peeks(_Joint):
    """alone: predictions depend on their batch."""

    card = CARD

    def forward(self, x: Tensor) -> Tensor:
        logits = self.network(x)
        return logits if self.training else logits - logits.mean()


class Counts(_Joint):
    """json: a hyperparameter that is another each time it is read."""

    card = CARD

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        reads: float = hparam(0.0)

        def __post_init__(self) -> None:
            object.__setattr__(self, "reads", next(_READS))


class Stacks(Algorithm):
    """uneven: minibatches must be of one size."""

    card = AlgorithmCard(paper="nobody's", needs=("classes",))

    def loss(self, batches: Sequence[Batch]) -> Tensor:
        logits = self(torch.stack([b.x for b in batches]).flatten(0, 1))
        return F.cross_entropy(logits, torch.cat([b.y for b in batches]))


class Remembers(Algorithm):
    """passes: a loss that changes what it reads each time it is evaluated."""

    card = CARD

    def build(self) -> None:
        self.register_buffer("mean", torch.ones(()))

    def loss(self, batches: Sequence[Batch]) -> Tensor:
        loss = self.joint_loss(batches)
        self.mean.lerp_(loss.detach(), 0.1)
        return loss * (1 + 0 * self.mean)


class Waits(Algorithm):
    """no sync: reads a value in every step."""

    card = CARD

    def update(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        loss = self.joint_loss(batches)
        self.descend(loss)
        return {"loss": torch.tensor(loss.item())}


class Gambles(Algorithm):
    """repeats: a generator that no seed reaches."""

    card = CARD

    def loss(self, batches: Sequence[Batch]) -> Tensor:
        generator = torch.Generator()
        generator.seed()
        return self.joint_loss(batches) * torch.rand((), generator=generator)


class Stirs(Algorithm):
    """inputs: with one option it adds noise to inputs, of which some are whole numbers."""

    card = CARD

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        stirred: bool = hparam(False)

    def loss(self, batches: Sequence[Batch]) -> Tensor:
        noisy = [b._replace(x=b.x + torch.randn_like(b.x)) if self.hparams.stirred else b for b in batches]
        return self.joint_loss(noisy)


class Shifts(Algorithm):
    """features: shifts the channels of inputs, and its card doesn't say so."""

    card = CARD

    def loss(self, batches: Sequence[Batch]) -> Tensor:
        return self.joint_loss([b._replace(x=b.x.roll(1, dims=1)) for b in batches])


class Spends(Algorithm):
    """cost: passes twice and says once."""

    card = CARD

    def loss(self, batches: Sequence[Batch]) -> Tensor:
        return (self.joint_loss(batches) + self.joint_loss(batches)) / 2
