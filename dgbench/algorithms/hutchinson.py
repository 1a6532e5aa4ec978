"""Hessian alignment by the diagonal of the classifier's Hessian, estimated by random probes or exact."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from dgbench.algorithms._head import derivative, hessian_diagonal, hessian_products, linear_head, losses_by_copies
from dgbench.core.cards import AlgorithmCard
from dgbench.core.needs import Need
from dgbench.core.space import hparam, power
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.batch import Batch

Products = Callable[[Tensor], Tensor]
"""Map from probes (K, E, P) to the products (K, E, P) of each domain's Hessian and its own probes."""
ESTIMATORS = ("probes", "exact")
"""The choices of `estimator`."""


class Hutchinson(Algorithm):
    r"""Match the domains' gradients and Hessian diagonals in the classifier.

    $$
    \min \; \frac{1}{E} \sum_e \Big[ L_e + \alpha\, \|D_e - D\|_2^2 + \beta\, \|g_e - g\|_2^2 \Big], \qquad
    D_e = \frac{1}{K} \sum_{k=1}^{K} r_k \odot (H_e r_k) \approx \mathrm{diag}\, H_e
    $$

    $g_e$ and $H_e$ are gradient and Hessian of $L_e$, the cross-entropy of domain $e$ of $E$, with respect to all
    parameters of the classifier; $g$ and $D$ are those of the mean of the $L_e$, held constant. The $K$ =
    `hutchinson_samples` probes $r_k$ are random signs, those of each domain and of the mean drawn apart. The features
    receive the penalty's gradient too.

    With `estimator` = `exact`, $D_e$ is $\mathrm{diag}\, H_e$ itself, in closed form for a linear classifier: the
    probes' mean converges to it, at a hundred times the cost and with noise (whose square the penalty of `probes`
    includes).

    Reference:
        Hemati, Zhang, Estiri and Chen, "Understanding Hessian Alignment for Domain Generalization", ICCV 2023.

    Departures from the authors' Colored MNIST scripts: mean over domains where they sum, the mean's terms are constant,
    no schedule of the penalty; all three as in DomainBed's fork that has this method.

    Departures from that fork's code:

    - All probes of all domains are one batched product, in closed form for a linear classifier, not one product each.
    - $g$ is the mean of the $g_e$, not a gradient taken anew.
    - The features of all domains come from one pass where batch norm is not live.
    """

    card = AlgorithmCard(
        paper="Hemati et al., ICCV 2023",
        link="https://arxiv.org/abs/2308.11778",
        tags=("gradient-matching",),
        min_domains=2,
        penalties=("hutchinson_alpha", "hutchinson_beta"),
        draws=True,
        needs=("classes", "learning_classifier", Need("linear_classifier", when={"estimator": "exact"})),
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Hyperparameters of Hutchinson; defaults and draws are the authors', under names with the method's as prefix.

        The draws of both weights lie far above their defaults, as in the authors' code.
        """

        hutchinson_alpha: float = hparam(1e-3, power(10, 1, 4), help="weight of the Hessians' diagonals")
        hutchinson_beta: float = hparam(5e-3, power(10, 2, 6), help="weight of the gradients")
        hutchinson_samples: int = hparam(300, help="probes for each diagonal", within="[1, inf)")
        estimator: str = hparam("probes", help="the way to find the diagonals", options=ESTIMATORS)

    hparams: Hparams

    def build(self) -> None:
        """Raise `UserError` for the closed form with a classifier that has none."""
        if self.hparams.estimator == "exact":
            linear_head(self.network, "Hutchinson with estimator 'exact'")

    def loss(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """Return the loss and its parts: one pass through the featurizer, second order in the classifier alone."""
        features = self.domain_features(batches)
        losses, copies = losses_by_copies(self.network.classifier, features, [batch.y for batch in batches])
        gradients = derivative(losses.sum(), copies)
        if self.hparams.estimator == "exact":
            head = linear_head(self.network, "Hutchinson")
            diagonals = torch.stack([hessian_diagonal(head, z, z.new_full((len(z),), 1 / len(z))) for z in features])
            of_mean = diagonals.mean(dim=0)
        else:
            products = self.products(gradients, copies, features)
            # The mean's probes are drawn first: the order of the draws decides a run's numbers.
            of_mean = self.diagonal_of_mean(products, gradients)
            diagonals = self.diagonals(products, gradients)
        mean = losses.mean()
        diagonal_gap = (diagonals - of_mean.detach()).square().sum(dim=1).mean()
        gradient_gap = (gradients - gradients.mean(dim=0).detach()).square().sum(dim=1).mean()
        penalty = self.hparams.hutchinson_alpha * diagonal_gap + self.hparams.hutchinson_beta * gradient_gap
        return {"loss": mean + penalty, "nll": mean, "penalty": penalty}

    def products(self, gradients: Tensor, copies: list[Tensor], features: Sequence[Tensor]) -> Products:
        """Return the domains' Hessians as a function of probes.

        Args:
            gradients: Gradients of the domains' losses (E, P), with their graph.
            copies: Each domain's copies of the classifier's parameters.
            features: The classifier's inputs (B, num_features) of each domain.

        Returns:
            The products in closed form for a linear classifier, otherwise by a batched derivative.
        """
        head = self.network.classifier
        if isinstance(head, nn.Linear):
            return partial(hessian_products, head, features)
        return partial(_derived_products, gradients, copies)

    def diagonals(self, products: Products, gradients: Tensor) -> Tensor:
        """Estimate the diagonal of each domain's Hessian (E, P), from probes of its own; differentiable."""
        probes = _signs(gradients, self.hparams.hutchinson_samples, *gradients.shape)
        return (probes * products(probes)).mean(dim=0)

    @torch.no_grad()
    def diagonal_of_mean(self, products: Products, gradients: Tensor) -> Tensor:
        """Estimate the diagonal of the mean loss's Hessian (P,), from probes that all domains share."""
        probes = _signs(gradients, self.hparams.hutchinson_samples, 1, gradients.shape[1])
        return (probes[:, 0] * products(probes.expand(-1, *gradients.shape)).mean(dim=1)).mean(dim=0)


def _signs(like: Tensor, *shape: int) -> Tensor:
    """Draw random signs, 1 or -1, in the dtype and on the device of `like`."""
    return torch.randint(2, shape, dtype=like.dtype, device=like.device).mul_(2).sub_(1)


def _derived_products(gradients: Tensor, copies: list[Tensor], probes: Tensor) -> Tensor:
    """Multiply each domain's Hessian by each of its probes (K, E, P), in one batched derivative."""
    graph = torch.is_grad_enabled()
    columns = torch.autograd.grad(
        gradients, copies, probes, retain_graph=True, create_graph=graph, is_grads_batched=True
    )
    return torch.cat([column.flatten(2) for column in columns], dim=2)
