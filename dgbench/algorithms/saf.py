"""Sharpness-aware training for free: the loss shall not fall fast, so outputs may not leave their past behind."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dgbench.core.cards import AlgorithmCard
from dgbench.core.space import hparam
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm, Batch


@dataclass(frozen=True)
class _Hparams(algorithm.Hparams):
    """Hold the fields of both forms, fixed in the release's loss; the paper searches none."""

    temperature: float = hparam(5.0, help="what past and present logits are divided by", within="(0, inf)")
    start_epoch: int = hparam(5, help="a domain's examples are held to the past in epochs after this, counted from 0")


class SAF(Algorithm):
    """min of L + lambda * T^2 * mean_n KL(softmax(z'_n / T) || softmax(z_n / T)), z'_n the logits of n some epochs ago.

    Du, Zhou, Feng, Tan and Zhou, "Sharpness-Aware Training for Free", NeurIPS 2022. z' are those that example n had
    `past_epochs` epochs ago, under another augmentation; they are constant.

    Departures from the paper and the authors' code, since minibatches are drawn with replacement and a domain at a
    time: an epoch of a domain is as many steps as draw its size; `past_epochs` epochs ago means as many times ago that
    the example itself was drawn, and until then it counts 0; there is no last epoch of the term. The logits are kept
    on the device: examples x past_epochs x classes numbers.
    """

    card = AlgorithmCard(
        paper="Du et al., NeurIPS 2022",
        penalties=("saf_lambda",),
        rehearsal={"past_epochs": 1, "start_epoch": 0},
        needs=("classes",),
    )

    @dataclass(frozen=True)
    class Hparams(_Hparams):
        """The release's: `saf_lambda` of its README's command (the flag's default is 0.16), 2 of the 2 to 3 epochs."""

        saf_lambda: float = hparam(0.3, help="weight of the divergence")
        past_epochs: int = hparam(2, help="epochs between the past logits and the present", within="[1, inf)")

    hparams: Hparams
    past: Tensor
    draws: Tensor

    def build(self) -> None:
        """Make room for the logits of every example, and of one that nobody reads."""
        examples, like = sum(self.task.sizes) + 1, next(self.network.parameters()).detach()
        room = like.new_zeros(examples, self.hparams.past_epochs, self.task.num_classes)
        self.register_buffer("past", room)
        self.register_buffer("draws", torch.zeros(examples, dtype=torch.int64, device=like.device))
        self.starts = (0, *itertools.accumulate(self.task.sizes))

    def update(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """One step; reads each example's oldest logits and writes the new ones in their place."""
        rows = torch.cat([batch.positions + self.starts[batch.domain] for batch in batches])
        logits = self(torch.cat([b.x for b in batches]))
        nll = F.cross_entropy(logits, torch.cat([b.y for b in batches]))
        slots = self.draws[rows] % self.hparams.past_epochs
        held = begun(self, batches) & (self.draws[rows] >= self.hparams.past_epochs)
        penalty = divergence(logits, self.past[rows, slots], held, self.hparams.temperature)
        self._write(rows, slots, logits.detach())
        loss = nll + self.hparams.saf_lambda * penalty
        self.descend(loss)
        return {"loss": loss.detach(), "nll": nll.detach(), "penalty": penalty.detach()}

    def _write(self, rows: Tensor, slots: Tensor, logits: Tensor) -> None:
        # Of an example that is twice in a minibatch the last is kept, whatever order the device writes in: the others
        # go where nobody reads.
        repeated = torch.triu(rows[:, None] == rows, diagonal=1).any(dim=1)
        rows = torch.where(repeated, len(self.draws) - 1, rows)
        self.past[rows, slots] = logits
        self.draws[rows] = self.draws[rows] + 1


class MESA(Algorithm):
    """min of L + lambda * T^2 * mean_n KL(softmax(z'_n / T) || softmax(z_n / T)), z' the logits of the moving average.

    Du, Zhou, Feng, Tan and Zhou, "Sharpness-Aware Training for Free", NeurIPS 2022: the form with less memory. The
    average of the weights, theta' <- decay * theta' + (1 - decay) * theta after each step, is in evaluation mode and
    constant.

    Departures from the paper and the authors' code: an epoch of a domain is as many steps as draw its size; there is
    no last epoch of the term. The default decay is theirs, for runs of 100,000 steps.
    """

    card = AlgorithmCard(
        paper="Du et al., NeurIPS 2022",
        forwards=2.0,
        penalties=("mesa_lambda",),
        rehearsal={"start_epoch": 0, "mesa_decay": 0.5},
        followers=("average",),
        needs=("classes",),
    )

    @dataclass(frozen=True)
    class Hparams(_Hparams):
        """The release's: `mesa_lambda` of its README's command, `mesa_decay` the flag's default."""

        mesa_lambda: float = hparam(0.8, help="weight of the divergence")
        mesa_decay: float = hparam(0.9998, help="how much of the average is kept from step to step", within="[0, 1]")

    hparams: Hparams

    def build(self) -> None:
        """Start the average at the initial weights."""
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        self.average.freeze("featurizer")

    def update(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """One step, then one of the average."""
        x = torch.cat([b.x for b in batches])
        logits = self(x)
        nll = F.cross_entropy(logits, torch.cat([b.y for b in batches]))
        with torch.no_grad():
            past = self.average.classifier(self.average.features(x))
        penalty = divergence(logits, past, begun(self, batches), self.hparams.temperature)
        loss = nll + self.hparams.mesa_lambda * penalty
        self.descend(loss)
        self._follow()
        return {"loss": loss.detach(), "nll": nll.detach(), "penalty": penalty.detach()}

    @torch.no_grad()
    def _follow(self) -> None:
        pairs = list(zip(self.average.state_dict().values(), self.network.state_dict().values(), strict=True))
        floats = [(mine, new) for mine, new in pairs if mine.is_floating_point()]
        torch._foreach_lerp_([mine for mine, _ in floats], [new for _, new in floats], 1 - self.hparams.mesa_decay)


def begun(method: Algorithm, batches: Sequence[Batch]) -> Tensor:
    """Whether each example's domain is past the first epochs, in the order of the concatenated minibatches (B,)."""
    sizes, domains = method.task.sizes, method.task.num_domains
    epochs = [method.step * len(b.y) * len(batches) // (sizes[b.domain] * domains) for b in batches]
    return torch.cat(
        [
            torch.full_like(b.y, epoch > method.hparams.start_epoch, dtype=torch.bool)
            for b, epoch in zip(batches, epochs, strict=True)
        ]
    )


def divergence(logits: Tensor, past: Tensor, held: Tensor, temperature: float) -> Tensor:
    """T^2 KL(past || present), the mean over examples, of which those not `held` count 0."""
    now, then = (F.log_softmax(z / temperature, dim=1) for z in (logits, past))
    return temperature**2 * (F.kl_div(now, then, reduction="none", log_target=True).sum(dim=1) * held).mean()
