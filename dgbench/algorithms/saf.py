"""SAF and MESA: avoid sharp minima by holding the outputs close to past ones, almost for free.

In both, the loss may not fall fast along the training path: a divergence ties the present logits to those of some
epochs ago (SAF) or of a moving average of the weights (MESA).
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dgbench.algorithms._domains import penalized
from dgbench.core.cards import AlgorithmCard
from dgbench.core.needs import Need
from dgbench.core.space import hparam
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.batch import Batch


@dataclass(frozen=True)
class _Hparams(algorithm.Hparams):
    """Hyperparameters of both forms; their values are fixed in the release's loss, and the paper searches none."""

    temperature: float = hparam(5.0, help="T, by which past and present logits are divided", within="(0, inf)")
    start_epoch: int = hparam(5, help="last epoch of a domain, counted from 0, without the penalty", begins="epoch")


class SAF(Algorithm):
    r"""Penalize the divergence of each example's logits from those it had some epochs ago.

    $$
    \min_\theta \; L + \lambda\, \frac{T^2}{N} \sum_n
    \mathrm{KL}\big(\mathrm{softmax}(z'_n / T) \,\big\|\, \mathrm{softmax}(z_n / T)\big)
    $$

    $L$ is ERM's loss, $z_n$ are the logits of example $n$ and $z'_n$ those that it had `past_epochs` epochs ago, under
    another augmentation; they are constant. $T$ is `temperature` and $\lambda$ is `saf_lambda`. The logits are kept on
    the device: examples × `past_epochs` × classes numbers.

    Reference:
        Du, Zhou, Feng, Tan and Zhou, "Sharpness-Aware Training for Free", NeurIPS 2022.

    Departures from the paper and the authors' code: minibatches are drawn with replacement and domain by domain, which
    changes three things.

    - An epoch of a domain is the number of steps that draw as many examples as it has.
    - `past_epochs` epochs ago means that many draws of the example itself ago; until then, it counts 0 in the mean.
    - The term has no last epoch.

    DomainBed: has no SAF.
    """

    card = AlgorithmCard(
        paper="Du et al., NeurIPS 2022",
        link="https://arxiv.org/abs/2205.14083",
        tags=("flat-minima", "distillation"),
        penalties=("saf_lambda",),
        rehearsal={"past_epochs": 1, "start_epoch": 0},
        needs=("classes",),
    )

    @dataclass(frozen=True)
    class Hparams(_Hparams):
        """Hyperparameters of SAF; the values are the release's.

        `saf_lambda` is that of the command in its README (the flag's default is 0.16); of its 2 to 3 epochs,
        `past_epochs` is 2.
        """

        saf_lambda: float = hparam(0.3, help="weight of the divergence")
        past_epochs: int = hparam(2, help="epochs between the past logits and the present", within="[1, inf)")

    hparams: Hparams
    past: Tensor
    draws: Tensor

    def build(self) -> None:
        """Make room for the past logits of every example, and for one row that is written but never read."""
        examples, like = sum(self.task.sizes) + 1, next(self.network.parameters()).detach()
        room = like.new_zeros(examples, self.hparams.past_epochs, self.task.num_classes)
        self.register_buffer("past", room)
        self.register_buffer("draws", torch.zeros(examples, dtype=torch.int64, device=like.device))
        self.starts = (0, *itertools.accumulate(self.task.sizes))

    def loss(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """Return the loss and its parts; each example's oldest logits are read, and replaced at the end of the step."""
        rows = torch.cat([batch.positions + self.starts[batch.domain] for batch in batches])
        logits = self(torch.cat([b.x for b in batches]))
        nll = F.cross_entropy(logits, torch.cat([b.y for b in batches]))
        # Each example has a ring of `past_epochs` slots; the one that its next logits go into holds its oldest.
        slots = self.draws[rows] % self.hparams.past_epochs
        counted = begun(self, batches) & (self.draws[rows] >= self.hparams.past_epochs)
        penalty = divergence(logits, self.past[rows, slots], counted, self.hparams.temperature)
        self.defer(lambda: self._write(rows, slots, logits.detach()))
        return penalized(nll, penalty, self.hparams.saf_lambda)

    def _write(self, rows: Tensor, slots: Tensor, logits: Tensor) -> None:
        # If an example is twice in a minibatch, its last row is kept, whatever order the device writes in: the other
        # rows go to the place that is never read.
        repeated = torch.triu(rows[:, None] == rows, diagonal=1).any(dim=1)
        rows = torch.where(repeated, len(self.draws) - 1, rows)
        self.past[rows, slots] = logits
        self.draws[rows] = self.draws[rows] + 1


class MESA(Algorithm):
    r"""Penalize the divergence of the logits from those of a moving average of the weights.

    $$
    \min_\theta \; L + \lambda\, \frac{T^2}{N} \sum_n
    \mathrm{KL}\big(\mathrm{softmax}(z'_n / T) \,\big\|\, \mathrm{softmax}(z_n / T)\big), \qquad
    \theta' \leftarrow d\, \theta' + (1 - d)\, \theta
    $$

    This is the form of SAF with less memory. $L$ is ERM's loss, $z_n$ are the logits of example $n$, $z'_n$ those of
    the averaged weights $\theta'$, which move after each step; the average is in evaluation mode and constant. $T$ is
    `temperature`, $\lambda$ is `mesa_lambda` and $d$ is `mesa_decay`, whose default suits the release's runs of 100,000
    steps.

    Reference:
        Du, Zhou, Feng, Tan and Zhou, "Sharpness-Aware Training for Free", NeurIPS 2022.

    Departures from the paper and the authors' code: an epoch of a domain is the number of steps that draw as many
    examples as it has, and the term has no last epoch.

    DomainBed: has no MESA.
    """

    card = AlgorithmCard(
        paper="Du et al., NeurIPS 2022",
        link="https://arxiv.org/abs/2205.14083",
        tags=("flat-minima", "distillation"),
        forwards=2.0,
        penalties=("mesa_lambda",),
        rehearsal={"start_epoch": 0, "mesa_decay": 0.5},
        followers=("average",),
        needs=("classes", Need("full_weights", why="averages the parameters that it trains one by one")),
    )

    @dataclass(frozen=True)
    class Hparams(_Hparams):
        """Hyperparameters of MESA, from the release: `mesa_lambda` from its README, `mesa_decay` the flag's default."""

        mesa_lambda: float = hparam(0.8, help="weight of the divergence")
        mesa_decay: float = hparam(0.9998, help="share of the average that is kept from step to step", within="[0, 1]")

    hparams: Hparams

    def build(self) -> None:
        """Start the average at the initial weights."""
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        self.average.freeze("featurizer")

    def loss(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """Return the loss and its parts; the average follows after the step."""
        x = torch.cat([b.x for b in batches])
        logits = self(x)
        nll = F.cross_entropy(logits, torch.cat([b.y for b in batches]))
        with torch.no_grad():
            past = self.average.classifier(self.average.features(x))
        penalty = divergence(logits, past, begun(self, batches), self.hparams.temperature)
        self.defer(self._follow)
        return penalized(nll, penalty, self.hparams.mesa_lambda)

    def _follow(self) -> None:
        pairs = list(zip(self.average.state_dict().values(), self.network.state_dict().values(), strict=True))
        floats = [(average, new) for average, new in pairs if average.is_floating_point()]
        torch._foreach_lerp_(
            [average for average, _ in floats], [new for _, new in floats], 1 - self.hparams.mesa_decay
        )


def begun(method: Algorithm, batches: Sequence[Batch]) -> Tensor:
    """Return a mask of the examples whose domain is past its first `start_epoch` epochs.

    Args:
        method: A SAF or MESA, whose `step` and hyperparameters are read.
        batches: The minibatches of the step.

    Returns:
        (B,), bool, in the order of the concatenated minibatches.
    """
    sizes, domains = method.task.sizes, method.task.num_domains
    # The factor len(batches) / domains is for steps that show only some of the domains: each is then drawn less often.
    epochs = [method.step * len(b.y) * len(batches) // (sizes[b.domain] * domains) for b in batches]
    return torch.cat(
        [
            torch.full_like(b.y, epoch > method.hparams.start_epoch, dtype=torch.bool)
            for b, epoch in zip(batches, epochs, strict=True)
        ]
    )


def divergence(logits: Tensor, past: Tensor, counted: Tensor, temperature: float) -> Tensor:
    """Return T^2 KL(past || present), averaged over all examples, of which those not `counted` count 0.

    Args:
        logits: Present logits (B, classes).
        past: Past logits (B, classes), constant.
        counted: Mask (B,) of the examples that the term holds to their past.
        temperature: T, by which both are divided.
    """
    now, then = (F.log_softmax(z / temperature, dim=1) for z in (logits, past))
    return temperature**2 * (F.kl_div(now, then, reduction="none", log_target=True).sum(dim=1) * counted).mean()
