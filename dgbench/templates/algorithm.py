"""An algorithm for dgbench. It is found by `--include`.

dgbench check mine.py
dgbench train --include mine.py --algorithm MyAlgorithm --dataset RotatedDigits --test 75
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

import dgbench
from dgbench import Algorithm, AlgorithmCard, Batch, hparam, power


class MyAlgorithm(Algorithm):
    """Minimize the mean loss of the domains plus `penalty` times its variance over them."""

    # What tables and lists say of it. What it needs of data and network goes here too: needs=("classes",).
    card = AlgorithmCard(paper="Author et al., Venue Year", min_domains=2)

    @dataclass(frozen=True)
    class Hparams(dgbench.Hparams):  # which has lr, weight_decay, batch_size and resnet_dropout
        """Hyperparameters of MyAlgorithm: each with its default, and how random search draws it."""

        penalty: float = hparam(1.0, power(10, -1, 2), help="weight of the variance", within="[0, inf)")

    hparams: Hparams

    def loss(self, batches: Sequence[Batch]) -> Tensor:
        """Return the scalar to minimize, given a minibatch of each training domain: inputs x, labels y."""
        # Logits of inputs are self(x), their features self.network.features(x). Methods that take steps of their own
        # write `update` in place of `loss`; those with several optimizers `build_optimizers` too.
        losses = self.domain_losses(batches)  # (domains,)
        return losses.mean() + self.hparams.penalty * losses.var()
