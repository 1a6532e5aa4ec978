"""An algorithm in twenty lines: ERM with label smoothing.

dgbench check examples/smooth.py
dgbench train --include examples/smooth.py --algorithm Smooth --dataset RotatedDigits --test 75
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

import dgbench
from dgbench import Algorithm, AlgorithmCard, Batch, hparam, uniform


class Smooth(Algorithm):
    """Minimize cross-entropy against labels of which a share `smoothing` goes to all classes alike."""

    card = AlgorithmCard(paper="Szegedy et al., CVPR 2016", needs=("classes",))

    @dataclass(frozen=True)
    class Hparams(dgbench.Hparams):
        """Hyperparameters of Smooth, beside those of every algorithm."""

        smoothing: float = hparam(0.1, uniform(0.0, 0.3), help="share of a label given to all classes alike")

    hparams: Hparams

    def loss(self, batches: Sequence[Batch]) -> Tensor:
        """Return the scalar to minimize, given a minibatch of each training domain: inputs x, labels y."""
        x, y = torch.cat([b.x for b in batches]), torch.cat([b.y for b in batches])
        return F.cross_entropy(self(x), y, label_smoothing=self.hparams.smoothing)
