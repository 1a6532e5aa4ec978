"""Hessian alignment by the diagonal of the classifier's Hessian, estimated by random probes or exact."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from dgbench.algorithms._head import derivative, hessian_diagonal, hessian_products, linear_head, losses_by_copies
from dgbench.core.cards import AlgorithmCard, Need
from dgbench.core.space import hparam, power
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm, Batch

Products = Callable[[Tensor], Tensor]
"""Probes (K, E, P) to each domain's Hessian times each of its own (K, E, P)."""
ESTIMATORS = ("probes", "exact")


class Hutchinson(Algorithm):
    """min of mean_e L_e + mean_e [alpha * ||D_e - D||^2 + beta * ||g_e - g||^2], D the Hessian's diagonal.

    g_e and H_e are gradient and Hessian of L_e, the cross-entropy of domain e, by all parameters of the classifier, g
    and H those of mean_e L_e, held constant. D_e estimates diag H_e as the mean of r * (H_e r) over probes r of random
    signs, each domain's and the mean's drawn apart. The features receive the penalty's gradient too.

    Hemati, Zhang, Estiri and Chen, "Understanding Hessian Alignment for Domain Generalization", ICCV 2023.

    With estimator `exact` D_e is diag H_e itself, in closed form for a linear classifier: what the probes' mean
    converges to, at a hundredth of the cost and without their noise (whose square the penalty of `probes` includes).

    Departures from the authors' Colored MNIST scripts: mean over domains where they sum, the mean's terms are constant,
    no schedule of the penalty; all three as in DomainBed's fork that has this method. From that code: all probes of all
    domains are one batched product, in closed form for a linear classifier, not one product each; g is the mean of the
    g_e, not a gradient taken anew; the features of all domains come from one pass where batch norm is not live.
    """

    card = AlgorithmCard(
        paper="Hemati et al., ICCV 2023",
        min_domains=2,
        penalties=("hutchinson_alpha", "hutchinson_beta"),
        needs=("classes", Need("linear_classifier", when={"estimator": "exact"})),
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Defaults and draws are the authors' under names that say whose they are; their draws exceed the defaults."""

        hutchinson_alpha: float = hparam(1e-3, power(10, 1, 4), help="weight of the Hessians' diagonals")
        hutchinson_beta: float = hparam(5e-3, power(10, 2, 6), help="weight of the gradients")
        hutchinson_samples: int = hparam(300, help="probes for each diagonal", within="[1, inf)")
        estimator: str = hparam("probes", help="how the diagonals are found", options=ESTIMATORS)

    hparams: Hparams

    def build(self) -> None:
        """Refuse the closed form for a classifier that has none."""
        if self.hparams.estimator == "exact":
            linear_head(self.network, "Hutchinson with estimator 'exact'")

    def update(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """One step: one pass through the featurizer, second order in the classifier alone."""
        features = self.domain_features(batches)
        losses, copies = losses_by_copies(self.network.classifier, features, [batch.y for batch in batches])
        gradients = derivative(losses.sum(), copies)
        if self.hparams.estimator == "exact":
            head = linear_head(self.network, "Hutchinson")
            diagonals = torch.stack([hessian_diagonal(head, z, z.new_full((len(z),), 1 / len(z))) for z in features])
            of_mean = diagonals.mean(dim=0)
        else:
            products = self.products(gradients, copies, features)
            of_mean = self.diagonal_of_mean(products, gradients)
            diagonals = self.diagonals(products, gradients)
        mean = losses.mean()
        diagonal_gap = (diagonals - of_mean.detach()).square().sum(dim=1).mean()
        gradient_gap = (gradients - gradients.mean(dim=0).detach()).square().sum(dim=1).mean()
        penalty = self.hparams.hutchinson_alpha * diagonal_gap + self.hparams.hutchinson_beta * gradient_gap
        loss = mean + penalty
        self.descend(loss)
        return {"loss": loss.detach(), "nll": mean.detach(), "penalty": penalty.detach()}

    def products(self, gradients: Tensor, copies: list[Tensor], features: Sequence[Tensor]) -> Products:
        """The domains' Hessians as functions: in closed form for a linear classifier, else by a batched derivative."""
        head = self.network.classifier
        if isinstance(head, nn.Linear):
            return partial(hessian_products, head, features)
        return partial(_derived_products, gradients, copies)

    def diagonals(self, products: Products, gradients: Tensor) -> Tensor:
        """The estimate of each domain's diagonal (E, P), from probes of its own; differentiable."""
        probes = _signs(gradients, self.hparams.hutchinson_samples, *gradients.shape)
        return (probes * products(probes)).mean(dim=0)

    @torch.no_grad()
    def diagonal_of_mean(self, products: Products, gradients: Tensor) -> Tensor:
        """The estimate of the diagonal of the mean loss's Hessian (P,), from probes that all domains share."""
        probes = _signs(gradients, self.hparams.hutchinson_samples, 1, gradients.shape[1])
        return (probes[:, 0] * products(probes.expand(-1, *gradients.shape)).mean(dim=1)).mean(dim=0)


def _signs(like: Tensor, *shape: int) -> Tensor:
    return torch.randint(2, shape, dtype=like.dtype, device=like.device).mul_(2).sub_(1)


def _derived_products(gradients: Tensor, copies: list[Tensor], probes: Tensor) -> Tensor:
    """Each domain's Hessian times each of its probes (K, E, P), in one batched call."""
    graph = torch.is_grad_enabled()
    columns = torch.autograd.grad(
        gradients, copies, probes, retain_graph=True, create_graph=graph, is_grads_batched=True
    )
    return torch.cat([column.flatten(2) for column in columns], dim=2)
