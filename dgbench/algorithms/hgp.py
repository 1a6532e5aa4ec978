"""Hessian alignment by Hessian-gradient products in the classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call, vmap
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from dgbench import algorithm
from dgbench.algorithm import Algorithm, Batch
from dgbench.cards import AlgorithmCard
from dgbench.space import hparam, power

_NO_LABEL = -100


class HGP(Algorithm):
    """min of mean_e L_e + mean_e [alpha * ||H_e g_e - H g||^2 + beta * ||g_e - g||^2], g, H of the classifier alone.

    g_e and H_e are gradient and Hessian of L_e, the cross-entropy of domain e, by all parameters of the classifier;
    g and H those of mean_e L_e, held constant in the penalty. H_e g_e is the gradient of ||g_e||^2 / 2. The features
    receive the penalty's gradient too.

    Hemati, Zhang, Estiri and Chen, "Understanding Hessian Alignment for Domain Generalization", ICCV 2023.

    Departures from the authors' Colored MNIST scripts: mean over domains where they sum, the mean's terms are constant,
    no schedule of the penalty; all three as in DomainBed. From DomainBed's code: no 1e-16 added to gradients and norms
    (the half square needs none); g is the mean of the g_e, not a gradient taken anew; the features of all domains come
    from one pass where batch norm is not live.
    """

    card = AlgorithmCard(paper="Hemati et al., ICCV 2023", min_domains=2, penalties=("hgp_alpha", "hgp_beta"))

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Defaults and draws are DomainBed's, but for names that say whose they are."""

        hgp_alpha: float = hparam(1e-4, power(10, -5, -3), help="weight of the Hessian-gradient products")
        hgp_beta: float = hparam(5e-3, power(10, -3, -1), help="weight of the gradients")

    hparams: Hparams

    def update(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """One step: one pass through the featurizer, second order in the classifier for all domains at once."""
        head = dict(self.network.classifier.named_parameters())
        # A copy of the classifier for each domain: one derivative by the copies is the derivative of every domain.
        heads = {name: p.expand(len(batches), *p.shape) for name, p in head.items()}
        losses = self._losses(heads, self.domain_features(batches), [batch.y for batch in batches])
        mean = losses.mean()
        penalty = self._penalty(losses, list(heads.values()))
        loss = mean + penalty
        self.descend(loss)
        return {"loss": loss.detach(), "nll": mean.detach(), "penalty": penalty.detach()}

    def _losses(self, heads: dict[str, Tensor], features: Sequence[Tensor], labels: Sequence[Tensor]) -> Tensor:
        """Mean cross-entropy of each domain (E,) by its own copy of the classifier; minibatches may differ in size."""
        z, y = pad_sequence(list(features), batch_first=True), pad_sequence(list(labels), True, _NO_LABEL)
        logits = vmap(lambda head, x: functional_call(self.network.classifier, head, (x,)))(heads, z)
        losses = F.cross_entropy(logits.flatten(0, 1), y.flatten(), ignore_index=_NO_LABEL, reduction="none")
        return losses.view(y.shape).sum(dim=1) / (y != _NO_LABEL).sum(dim=1)

    def _penalty(self, losses: Tensor, heads: list[Tensor]) -> Tensor:
        gradients = _derivative(losses.sum(), heads)
        products = _derivative(gradients.square().sum() / 2, heads)
        mean = gradients.mean(dim=0)
        mean_product = _derivative(mean.square().sum() / 2, heads).sum(dim=0).detach()
        hessian_gap = (products - mean_product).square().sum(dim=1).mean()
        gradient_gap = (gradients - mean.detach()).square().sum(dim=1).mean()
        return self.hparams.hgp_alpha * hessian_gap + self.hparams.hgp_beta * gradient_gap


def _derivative(scalar: Tensor, heads: list[Tensor]) -> Tensor:
    """By all parameters of each domain's classifier (E, P), differentiable."""
    return torch.cat([g.flatten(1) for g in torch.autograd.grad(scalar, heads, create_graph=True)], dim=1)
