"""Spectral decoupling: keep logits small, so that no feature starves the others of gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dgbench.algorithms._domains import penalized
from dgbench.core.cards import AlgorithmCard
from dgbench.core.space import hparam, power
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.batch import Batch


class SD(Algorithm):
    r"""Penalize large logits, so that easily learned features do not keep others from being learned.

    $$
    \min_\theta \; L + \lambda\, \frac{1}{NC} \sum_{n, c} f(x_n)_c^2
    $$

    $L$ is the cross-entropy of all $N$ examples, $f(x)_c$ the logit of class $c$ of $C$, and $\lambda$ is `sd_reg`.

    Reference:
        Pezeshki, Kaba, Bengio, Courville, Precup and Lajoie, "Gradient Starvation: A Learning Proclivity in Neural
        Networks", NeurIPS 2021.

    Departures from the paper's Equation 25: the factor is $\lambda$, not $\lambda / 2$, and the mean is over classes
    too, both as in DomainBed.

    Departures from DomainBed's code: none.
    """

    card = AlgorithmCard(
        paper="Pezeshki et al., NeurIPS 2021",
        link="https://arxiv.org/abs/2011.09468",
        tags=("regularization",),
        penalties=("sd_reg",),
        needs=("classes",),
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Hyperparameters of SD; default and draw are DomainBed's."""

        sd_reg: float = hparam(0.1, power(10, -5, -1), help="weight of the squared logits")

    hparams: Hparams

    def loss(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """Return the loss and its parts: the cross-entropy and the mean square of all logits."""
        logits = self(torch.cat([b.x for b in batches]))
        nll = F.cross_entropy(logits, torch.cat([b.y for b in batches]))
        return penalized(nll, logits.square().mean(), self.hparams.sd_reg)
