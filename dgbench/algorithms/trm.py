"""Transfer risk minimization: a classifier fitted to one domain should also do for the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from dgbench.algorithms._domains import domain_indices
from dgbench.core.cards import AlgorithmCard
from dgbench.core.errors import UserError
from dgbench.core.space import hparam, power
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.batch import Batch

_HEAD_STEPS, _HEAD_LR = 30, 0.1
_NEUMANN_TERMS, _NEUMANN_LIMIT = 10, 10.0


class TRM(Algorithm):
    r"""Learn features on which a classifier fitted to one domain also works on the others.

    $$
    \min_\theta \; L + \frac1E \sum_q \Big[ R_q - \lambda \big\langle H_q^{-1} \nabla R_q,\; \nabla L_q \big\rangle
    \Big]_{w_q}, \qquad R_q = \sum_{p \ne q} \alpha_{qp} L_p
    $$

    $L$ is ERM's loss and $L_p$ that of domain $p$, all on the same features; $\lambda$ is `cos_lambda`. Each domain $q$
    has a linear classifier $w_q$, which in every step takes 30 gradient steps of size 0.1 on $L_q$ with the features
    held fixed. Gradients and $H_q$, the Hessian of $L_q$, are by its weight without the bias. $H_q^{-1} \nabla R_q$ is
    constant in the loss. It is a Neumann series of 10 terms after its argument, cut off after the first sum with an
    entry beyond 10.

    The weights of the domains change after each step,
    $\alpha_{qp} \leftarrow \alpha_{qp} \exp(\eta\, \alpha_{qp} L_p(w_q))$ with $\eta$ = `groupdro_eta`, and the next
    step begins by scaling their sum over $p$ to 1. The first `iters` steps are ERM's. As in DomainBed, the exponent has
    a factor $\alpha$, and with `class_balanced` the weights of each $w_q$ start every step from those of the network's
    classifier.

    Reference:
        Xu and Jaakkola, "Learning Representations that Support Robust Transfer of Predictors", arXiv 2021.

    Departures from DomainBed's code:

    - The gradient of $R_q$ by the features has the $\alpha$ of before its update. There, the graph shares the storage
      of $\alpha$ and is differentiated after the update, so that it has the $\alpha$ of after.
    - The Neumann series begins with its argument. There, the argument is overwritten before it is added, so that the
      first two terms are twice the second.
    - The domains' classifiers are saved with the run, and are on the features' device.
    - Derivatives of softmax regression are in closed form, for all domains at once.
    """

    card = AlgorithmCard(
        paper="Xu and Jaakkola, arXiv 2021",
        link="https://arxiv.org/abs/2110.09940",
        tags=("invariance",),
        min_domains=2,
        penalties=("cos_lambda",),
        base=None,
        rehearsal={"iters": 2},
        needs=("linear_classifier", "classes", "every_class"),
        unlike_domainbed="overwrites the first term of its Neumann series, needs CUDA, doesn't save its classifiers",
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Hyperparameters of TRM; defaults and draws are DomainBed's."""

        cos_lambda: float = hparam(1e-4, power(10, -5, 0), help="weight of the inner product with the inverse Hessian")
        iters: int = hparam(
            200,
            power(10, 0, 4, integer=True),
            help="first step with the transfer risk; those before are ERM's",
            begins="step",
        )
        groupdro_eta: float = hparam(1e-2, power(10, -3, -1), help="step size of the domains' weights alpha")

    hparams: Hparams
    weights: Tensor
    biases: Tensor
    alpha: Tensor

    def build(self) -> None:
        """Create a linear classifier for each domain, as buffers, and equal weights of all pairs of domains."""
        if not isinstance(self.network.classifier, nn.Linear):
            raise UserError("TRM needs a linear classifier: leave nonlinear_classifier false")
        domains = self.task.num_domains
        # Buffers, not parameters: these classifiers learn by their own gradient steps, not by the optimizer.
        heads = [nn.Linear(self.network.num_features, self.task.num_classes) for _ in range(domains)]
        self.register_buffer("weights", torch.stack([head.weight.detach() for head in heads]))
        self.register_buffer("biases", torch.stack([head.bias.detach() for head in heads]))
        self.register_buffer("alpha", torch.ones(domains, domains) - torch.eye(domains))

    def loss(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """Return the loss and its parts, for one pass through the featurizer that serves all classifiers."""
        x, y = torch.cat([b.x for b in batches]), torch.cat([b.y for b in batches])
        features = self.network.dropout(self.network.features(x))
        nll = F.cross_entropy(self.network.classifier(features), y)
        if self.step < self.hparams.iters:
            return {"loss": nll, "nll": nll}
        transfer = self._transfer_risk(features, y, [len(b.y) for b in batches], domain_indices(self, batches))
        return {"loss": nll + transfer, "nll": nll, "transfer": transfer}

    def _transfer_risk(self, features: Tensor, y: Tensor, sizes: list[int], domains: Tensor) -> Tensor:
        """Return the mean over q in TRM's objective; the domains' moved classifiers and alpha are kept afterwards."""
        own = _Regression(torch.split(features, sizes), torch.split(y, sizes), self.task.num_classes)
        own_weights, own_biases, alpha = self.weights[domains], self.biases[domains], self.alpha[domains][:, domains]
        alpha = alpha / alpha.sum(dim=1, keepdim=True)
        if self.setting.class_balanced:
            assert isinstance(self.network.classifier, nn.Linear)
            own_weights.copy_(self.network.classifier.weight.detach().expand_as(own_weights))
        own.fit(own_weights, own_biases)

        # A leaf by which R_q is differentiated; the features stay in the graph, so that the risk also trains the
        # featurizer.
        weights = own_weights.clone().requires_grad_()
        logits = torch.einsum("nd,qcd->qnc", features, weights) + own_biases[:, None]
        losses = F.cross_entropy(logits.flatten(0, 1), y.repeat(len(sizes)), reduction="none").view(len(sizes), -1)
        risks = torch.stack([part.mean(dim=1) for part in torch.split(losses, sizes, dim=1)], dim=1)  # [q, p]: L_p(w_q)
        weighted = alpha * risks
        (others,) = torch.autograd.grad(weighted.sum(), weights, retain_graph=True)
        v = own.inverse_hessian(others, own_weights, own_biases)
        alignment = own.alignment(v, own_weights, own_biases)
        grown = alpha * torch.exp(self.hparams.groupdro_eta * weighted.detach())
        self.defer(lambda: self._keep(domains, own_weights, own_biases, grown))
        return (weighted.sum() - self.hparams.cos_lambda * alignment) / len(sizes)

    def _keep(self, domains: Tensor, weights: Tensor, biases: Tensor, alpha: Tensor) -> None:
        """Put classifiers (E, C, D), (E, C) and pair weights (E, E) in the places of their domains."""
        self.weights[domains], self.biases[domains] = weights, biases
        self.alpha[domains[:, None], domains] = alpha


class _Regression:
    """Softmax regression of each domain q on its own features, by weights (E, C, D) and biases (E, C), all at once.

    Domains are padded to the size of the largest minibatch; padding has a share of 0 in every mean.
    """

    def __init__(self, features: Sequence[Tensor], labels: Sequence[Tensor], num_classes: int) -> None:
        self.features = pad_sequence(list(features), batch_first=True)
        self.fixed = self.features.detach()
        y = pad_sequence(list(labels), batch_first=True)
        self.targets = (y[..., None] == torch.arange(num_classes, device=y.device)).to(self.fixed.dtype)
        self.shares = pad_sequence([f.new_full((len(f), 1), 1 / len(f)) for f in features], batch_first=True)

    @torch.no_grad()
    def fit(self, weights: Tensor, biases: Tensor) -> None:
        """Take gradient steps on the mean cross-entropy of each domain, in place."""
        for _ in range(_HEAD_STEPS):
            error = (self._probabilities(weights, biases) - self.targets) * self.shares
            weights -= _HEAD_LR * error.mT @ self.fixed
            biases -= _HEAD_LR * error.sum(dim=1)

    @torch.no_grad()
    def inverse_hessian(self, v: Tensor, weights: Tensor, biases: Tensor) -> Tensor:
        """Return H^-1 v (E, C, D) of each domain by v + (1 - H) v + (1 - H)^2 v + ..., cut off where it diverges."""
        p = self._probabilities(weights, biases)
        total, going = v, torch.ones_like(v[:, :1, :1], dtype=torch.bool)
        for _ in range(_NEUMANN_TERMS):
            u = self.fixed @ v.mT
            # v <- (1 - H) v: a Hessian-vector product of softmax regression needs the probabilities p alone.
            v = v - (p * (u - (p * u).sum(dim=2, keepdim=True)) * self.shares).mT @ self.fixed
            total = torch.where(going, total + v, total)
            going = going & (total.abs().amax(dim=(1, 2), keepdim=True) <= _NEUMANN_LIMIT)
        return total

    def alignment(self, v: Tensor, weights: Tensor, biases: Tensor) -> Tensor:
        """Return the sum over domains of <v, gradient of the mean cross-entropy>, differentiable by the features."""
        logits = self.features @ weights.mT + biases[:, None]
        error = (logits.softmax(dim=2) - self.targets) * self.shares
        return (error * (self.features @ v.mT)).sum()

    def _probabilities(self, weights: Tensor, biases: Tensor) -> Tensor:
        return (self.fixed @ weights.mT + biases[:, None]).softmax(dim=2)
