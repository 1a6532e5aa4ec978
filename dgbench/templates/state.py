"""An algorithm for dgbench that remembers something between steps, and resumes with it.

dgbench check mine.py
dgbench train --include mine.py --algorithm MyAlgorithm --dataset RotatedDigits --test 75
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

import dgbench
from dgbench import Algorithm, AlgorithmCard, Batch, hparam, power, uniform


class MyAlgorithm(Algorithm):
    """Minimize the mean loss, with domains weighted by a running mean of their losses."""

    # With `sharpness` 0 all domains weigh alike, which is the baseline: `dgbench check` compares the two.
    card = AlgorithmCard(paper="Author et al., Venue Year", min_domains=2, penalties=("sharpness",))

    @dataclass(frozen=True)
    class Hparams(dgbench.Hparams):
        """Hyperparameters of MyAlgorithm, beside those of every algorithm."""

        sharpness: float = hparam(1.0, power(10, -1, 1), help="weight of hard domains", within="[0, inf)")
        decay: float = hparam(0.9, uniform(0.5, 0.99), help="of the running means", within="[0, 1)")

    hparams: Hparams
    means: Tensor
    """Running mean of each domain's loss (domains,)."""
    seen: Tensor
    """Steps that showed each domain (domains,)."""

    def build(self) -> None:
        """Make the memory: buffers are saved, resumed and moved to the device, which plain attributes are not."""
        self.register_buffer("means", torch.zeros(self.task.num_domains))
        self.register_buffer("seen", torch.zeros(self.task.num_domains))

    def loss(self, batches: Sequence[Batch]) -> Tensor:
        """Return the loss, with domains weighted by their running means as this step leaves them."""
        losses = self.domain_losses(batches)
        # A step may show some of the domains only, so the memory is read by their numbers.
        domains = torch.tensor([b.domain for b in batches], device=losses.device)
        decay = self.hparams.decay
        # Detached: a graph through the past would grow from step to step.
        means = decay * self.means[domains] + (1 - decay) * losses.detach()
        seen = self.seen[domains] + 1
        # Kept when the step is done, once however often it passes over this loss (SAM's does twice).
        self.defer(lambda: self.keep(domains, means, seen))
        unbiased = means / (1 - decay**seen)
        return (torch.softmax(self.hparams.sharpness * unbiased, dim=0) * losses).sum()

    def keep(self, domains: Tensor, means: Tensor, seen: Tensor) -> None:
        """Write the memory of the domains that the step showed."""
        self.means.index_copy_(0, domains, means)
        self.seen.index_copy_(0, domains, seen)
