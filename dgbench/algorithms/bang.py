"""BANG: fine-tune with Mixup and label smoothing, so that the average with the initial weights is not one-sided.

A model that is less confident leaves the initial model a say in the average.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Beta
from torch.nn import functional as F

from dgbench.core.cards import AlgorithmCard
from dgbench.core.space import choice, hparam, power
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.batch import Batch


class BANG(Algorithm):
    r"""Train on blended pairs of examples with smoothed labels, to be averaged with the initial weights afterwards.

    $$
    \min_\theta \; \lambda\, \mathrm{CE}_s(f(\tilde x), y_i) + (1 - \lambda)\, \mathrm{CE}_s(f(\tilde x), y_j), \qquad
    \tilde x = \lambda x_i + (1 - \lambda) x_j, \qquad \lambda \sim \mathrm{Beta}(\alpha, \alpha)
    $$

    $\mathrm{CE}_s$ is the cross-entropy with smoothed labels. $\lambda$ is drawn once a step, with $\alpha$ =
    `mixup_alpha`; $j$ is a random order of all examples of the step, whatever their domain. This class is the training
    alone: the method averages its result with the initial weights, which is the row `BANG+WiSEFT`. With `mixup_alpha` 0
    it is label smoothing alone, with `label_smoothing` 0 Mixup alone; the paper has both.

    Reference:
        Lin, Tan, Hao, Wong, Dong, Zhang, Yang and Zhang, "Spurious Feature Diversification Improves Out-of-distribution
        Generalization", ICLR 2024.

    Departures from the paper:

    - No code is published, and of the paper its abstract and its reviews were read, which name the two parts.
    - The form of Mixup is that of Zhang et al. (ICLR 2018); $\alpha$ and the smoothing are this project's choice.
    - The paper fine-tunes CLIP on ImageNet.

    DomainBed: has no BANG; its Mixup blends two whole domains.
    """

    card = AlgorithmCard(
        paper="Lin et al., ICLR 2024",
        link="https://arxiv.org/abs/2309.17230",
        tags=("augmentation", "averaging", "pretraining"),
        penalties=("mixup_alpha", "label_smoothing"),
        draws=True,
        experimental="mixup_alpha and label_smoothing, and how examples are paired",
        needs=("classes", "real_inputs"),
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Hyperparameters of BANG.

        Default and draw of `mixup_alpha` are those of DomainBed's Mixup; the smoothing is the customary one.
        """

        mixup_alpha: float = hparam(
            0.2,
            power(10, -1, 1),
            help="alpha of Beta(alpha, alpha), from which the share is drawn; 0: no Mixup",
            within="[0, inf)",
        )
        label_smoothing: float = hparam(
            0.1,
            choice(0.05, 0.1, 0.2),
            help="share of each label that is spread evenly over all classes",
            within="[0, 1)",
        )

    hparams: Hparams

    def loss(self, batches: Sequence[Batch]) -> Tensor:
        """Return the mean loss over as many blends as there are examples, in one forward pass."""
        h, x, y = self.hparams, torch.cat([b.x for b in batches]), torch.cat([b.y for b in batches])
        if not h.mixup_alpha:
            return F.cross_entropy(self(x), y, label_smoothing=h.label_smoothing)
        # In double precision the share can't underflow; on the host, so that nothing waits for the device.
        alpha = torch.full((1,), h.mixup_alpha, dtype=torch.float64)
        share = float(Beta(alpha, alpha, validate_args=False).sample().numpy()[0])
        partner = torch.randperm(len(y), device=y.device)
        logits = self(share * x + (1 - share) * x[partner])
        one, other = (F.cross_entropy(logits, z, label_smoothing=h.label_smoothing) for z in (y, y[partner]))
        return share * one + (1 - share) * other
