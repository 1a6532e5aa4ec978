"""Spectral decoupling: small logits, so that no feature starves the others of gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dgbench.algorithms._domains import descend_penalised
from dgbench.core.cards import AlgorithmCard
from dgbench.core.space import hparam, power
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm, Batch


class SD(Algorithm):
    """min over theta of L + lambda * mean over examples and classes of f(x)_c^2, L the cross-entropy of all examples.

    Pezeshki, Kaba, Bengio, Courville, Precup and Lajoie, "Gradient Starvation: A Learning Proclivity in Neural
    Networks", NeurIPS 2021.

    Departures from the paper's Equation 25: lambda, not lambda / 2, and the mean over classes too, both as in
    DomainBed. From DomainBed's code: none.
    """

    card = AlgorithmCard(paper="Pezeshki et al., NeurIPS 2021", penalties=("sd_reg",), needs=("classes",))

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Default and draw are DomainBed's."""

        sd_reg: float = hparam(0.1, power(10, -5, -1), help="weight of the squared logits")

    hparams: Hparams

    def update(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """One step."""
        logits = self(torch.cat([b.x for b in batches]))
        nll = F.cross_entropy(logits, torch.cat([b.y for b in batches]))
        return descend_penalised(self, nll, logits.square().mean(), self.hparams.sd_reg)
