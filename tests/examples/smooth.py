"""ERM with label smoothing: all that a new algorithm needs is in this file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

import dgbench
from dgbench import Algorithm, AlgorithmCard, Batch, hparam, uniform


class Smooth(Algorithm):
    """min over theta of mean CE(f(x), (1 - s) * onehot(y) + s / C)."""

    card = AlgorithmCard(paper="Szegedy et al., CVPR 2016", needs=("classes",))

    @dataclass(frozen=True)
    class Hparams(dgbench.Hparams):
        """ERM's, and how much to smooth."""

        smoothing: float = hparam(0.1, uniform(0.0, 0.3), help="share of a label given to all classes alike")

    hparams: Hparams

    def loss(self, batches: Sequence[Batch]) -> Tensor:
        """`batches`: one minibatch (x, y) of each training domain."""
        x, y = torch.cat([b.x for b in batches]), torch.cat([b.y for b in batches])
        return F.cross_entropy(self(x), y, label_smoothing=self.hparams.smoothing)
