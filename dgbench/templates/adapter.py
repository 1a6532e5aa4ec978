"""A test-time adapter for dgbench: it learns from the unlabelled inputs that it predicts.

dgbench train --include mine.py --algorithm ERM+MyAdapter --dataset RotatedDigits --test 75
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dgbench import Adapter, AdapterCard, Checked, Network, hparam


class MyAdapter(Adapter):
    """Subtract from the logits `strength` times the mean of all logits so far, so that no class is preferred."""

    card = AdapterCard(paper="Author et al., Venue Year")

    @dataclass(frozen=True)
    class Hparams(Checked):
        """Hyperparameters of MyAdapter."""

        strength: float = hparam(0.5, help="share of the mean that is subtracted", within="[0, 1]")

    hparams: Hparams

    def __init__(self, network: Network, hparams: Any) -> None:
        super().__init__(network.eval(), hparams)  # a copy of its own, which it may change
        self.count, self.total = 0, torch.zeros(())

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """Return logits (B, classes) of a batch; a new adapter is made for each part of a domain."""
        logits: Tensor = self.network(x)
        self.count += len(x)
        self.total = self.total.to(logits.device) + logits.sum(0)
        return logits - self.hparams.strength * self.total / self.count
