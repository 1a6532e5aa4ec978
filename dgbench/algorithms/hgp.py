"""Hessian alignment by Hessian-gradient products (HGP) in the classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from dgbench.algorithms._head import derivative, losses_by_copies
from dgbench.core.cards import AlgorithmCard
from dgbench.core.space import hparam, power
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.batch import Batch


class HGP(Algorithm):
    r"""Match the domains' gradients and Hessian-gradient products in the classifier.

    $$
    \min \; \frac{1}{E} \sum_e \Big[ L_e + \alpha\, \|H_e g_e - H g\|_2^2 + \beta\, \|g_e - g\|_2^2 \Big]
    $$

    $g_e$ and $H_e$ are gradient and Hessian of $L_e$, the cross-entropy of domain $e$ of $E$, with respect to all
    parameters of the classifier; $g$ and $H$ are those of the mean of the $L_e$, held constant in the penalty.
    $H_e g_e$ is computed as the gradient of $\|g_e\|_2^2 / 2$. The features receive the penalty's gradient too.

    Reference:
        Hemati, Zhang, Estiri and Chen, "Understanding Hessian Alignment for Domain Generalization", ICCV 2023.

    Departures from the authors' Colored MNIST scripts: mean over domains where they sum, the mean's terms are constant,
    no schedule of the penalty; all three as in DomainBed.

    Departures from DomainBed's code:

    - No 1e-16 added to gradients and norms (the half square needs none).
    - $g$ is the mean of the $g_e$, not a gradient taken anew.
    - The features of all domains come from one pass where batch norm is not live.
    """

    card = AlgorithmCard(
        paper="Hemati et al., ICCV 2023",
        link="https://arxiv.org/abs/2308.11778",
        tags=("gradient-matching",),
        min_domains=2,
        penalties=("hgp_alpha", "hgp_beta"),
        needs=("classes", "learning_classifier"),
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Hyperparameters of HGP; defaults and draws are DomainBed's, under names with the method's as prefix."""

        hgp_alpha: float = hparam(1e-4, power(10, -5, -3), help="weight of the Hessian-gradient products")
        hgp_beta: float = hparam(5e-3, power(10, -3, -1), help="weight of the gradients")

    hparams: Hparams

    def loss(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """Return the loss and its parts: one pass through the featurizer, second order in the classifier alone."""
        features = self.domain_features(batches)
        losses, copies = losses_by_copies(self.network.classifier, features, [batch.y for batch in batches])
        mean = losses.mean()
        penalty = self._penalty(losses, copies)
        return {"loss": mean + penalty, "nll": mean, "penalty": penalty}

    def _penalty(self, losses: Tensor, copies: list[Tensor]) -> Tensor:
        """Return the penalty, from the domains' losses (E,) and their copies of the classifier."""
        gradients = derivative(losses.sum(), copies)
        products = derivative(gradients.square().sum() / 2, copies)
        mean = gradients.mean(dim=0)
        # At domain e's copy the derivative is H_e g / E; their sum is H g, the product of the mean loss.
        mean_product = derivative(mean.square().sum() / 2, copies).sum(dim=0).detach()
        hessian_gap = (products - mean_product).square().sum(dim=1).mean()
        gradient_gap = (gradients - mean.detach()).square().sum(dim=1).mean()
        return self.hparams.hgp_alpha * hessian_gap + self.hparams.hgp_beta * gradient_gap
