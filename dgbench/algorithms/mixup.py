"""Mixup between domains: learn on blends of two domains' images, with both labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Beta

from dgbench.algorithms._domains import parts
from dgbench.core.cards import AlgorithmCard
from dgbench.core.space import hparam, power
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm, Batch


class Mixup(Algorithm):
    """mean over a random cycle of domains i -> j of l CE(f(x), y_i) + (1 - l) CE(f(x), y_j), x = l x_i + (1 - l) x_j.

    l ~ Beta(alpha, alpha), one for each pair. Zhang, Cisse, Dauphin and Lopez-Paz, "mixup: Beyond Empirical Risk
    Minimization", ICLR 2018; between domains: Yan, Song, Li, Zou and Ren, "Improve Unsupervised Domain Adaptation with
    Mixup Training", arXiv:2001.00677, 2020; Wang, Li and Kot, "Heterogeneous Domain Generalization via Domain Mixup",
    ICASSP 2020.

    Departures: between labelled domains only, as in DomainBed. From DomainBed's code: none in the numbers; l comes from
    torch's generator, and all pairs share one forward pass where batch norm is not live. A pair is as long as its
    shorter minibatch, as there.
    """

    card = AlgorithmCard(paper="Yan et al., arXiv 2020", min_domains=2, needs=("real_inputs",))

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Default and draw are DomainBed's."""

        mixup_alpha: float = hparam(
            0.2, power(10, -1, 1), help="of Beta(alpha, alpha), which the shares come from", within="(0, inf)"
        )

    hparams: Hparams

    def update(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """One step on as many blends as there are domains."""
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
        logits = parts(self.network.classifier(torch.cat(self.domain_features(blends))), blends)
        terms = [
            share * self.criterion(z, blend.y) + (1 - share) * self.criterion(z, y)
            for z, blend, y, share in zip(logits, blends, partners, shares, strict=True)
        ]
        loss = torch.stack(terms).mean()
        self.descend(loss)
        return {"loss": loss.detach()}
