"""Mixup between domains: learn on blends of two domains' images, with both labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Beta

from dgbench.algorithms._domains import split_by_domain
from dgbench.core.cards import AlgorithmCard
from dgbench.core.space import hparam, power
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.batch import Batch


class Mixup(Algorithm):
    r"""Train on convex blends of inputs from two domains, weighting both labels by their shares.

    $$
    \min_\theta \; \frac1E \sum_{i \to j} \ell\, \mathrm{CE}\big(f(x), y_i\big) +
    (1 - \ell)\, \mathrm{CE}\big(f(x), y_j\big), \qquad
    x = \ell x_i + (1 - \ell) x_j, \quad \ell \sim \mathrm{Beta}(\alpha, \alpha)
    $$

    The pairs $i \to j$ are a random cycle through the $E$ domains of the step. $\ell$ is drawn once for each pair and
    $\alpha$ is `mixup_alpha`. A pair is as long as its shorter minibatch.

    Reference:
        Zhang, Cisse, Dauphin and Lopez-Paz, "mixup: Beyond Empirical Risk Minimization", ICLR 2018. Between domains:
        Yan, Song, Li, Zou and Ren, "Improve Unsupervised Domain Adaptation with Mixup Training", arXiv:2001.00677,
        2020; Wang, Li and Kot, "Heterogeneous Domain Generalization via Domain Mixup", ICASSP 2020.

    Departures from the papers: blends are made between labeled domains only, as in DomainBed.

    Departures from DomainBed's code: none in the numbers. $\ell$ comes from torch's generator, and all pairs share one
    forward pass where batch norm is not live.
    """

    card = AlgorithmCard(
        paper="Yan et al., arXiv 2020",
        link="https://arxiv.org/abs/2001.00677",
        tags=("augmentation",),
        min_domains=2,
        draws=True,
        needs=("real_inputs",),
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Hyperparameters of Mixup; default and draw are DomainBed's."""

        mixup_alpha: float = hparam(
            0.2,
            power(10, -1, 1),
            help="alpha of Beta(alpha, alpha), which the shares are drawn from",
            within="(0, inf)",
        )

    hparams: Hparams

    def loss(self, batches: Sequence[Batch]) -> Tensor:
        """Return the mean loss over as many blends as there are domains."""
        order = torch.randperm(len(batches)).tolist()
        # In double precision a share can't underflow; on the host, so that nothing waits for the device.
        alpha = torch.full((len(batches),), self.hparams.mixup_alpha, dtype=torch.float64)
        shares = Beta(alpha, alpha, validate_args=False).sample().tolist()
        blends, partners = [], []
        for i, j, share in zip(order, order[1:] + order[:1], shares, strict=True):
            one, other, n = batches[i], batches[j], min(len(batches[i].y), len(batches[j].y))
            x = share * one.x[:n] + (1 - share) * other.x[:n]
            blends.append(Batch(x, one.y[:n], one.positions[:n], one.domain))
            partners.append(other.y[:n])
        logits = split_by_domain(self.network.classifier(torch.cat(self.domain_features(blends))), blends)
        terms = [
            share * self.criterion(z, blend.y) + (1 - share) * self.criterion(z, y)
            for z, blend, y, share in zip(logits, blends, partners, shares, strict=True)
        ]
        return torch.stack(terms).mean()
