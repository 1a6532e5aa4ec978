"""TRAM: SAM whose radius is a trust region, the distance that predictions have moved or move under noise."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dgbench.core.composition import RuleCard
from dgbench.core.space import hparam
from dgbench.methods import algorithm
from dgbench.methods.ascent import backward_at, gradient, scale_to_adaptive_length
from dgbench.methods.batch import Batch
from dgbench.methods.rule import First, Rule
from dgbench.networks.norms import frozen_batch_norm_statistics

DISTANCES = ("previous", "pretrained", "noise", "fisher")
"""Predictions to compare with, from which the radius comes."""
REDUCTIONS = ("batchmean", "repo")
"""The mean over examples, and the smaller number of the authors' code."""


class TRAM(Rule):
    r"""Take SAM steps whose radius is the distance that the predictions have moved.

    $$
    \min_\theta \; L(\theta + \epsilon), \qquad
    \epsilon = d\, \frac{\theta^2 \odot g}{\|\theta \odot g\|_2 + 10^{-12}}, \qquad
    d = \frac1N \sum_x \mathrm{KL}\big(p'(x) \,\|\, p(x)\big)
    $$

    $g = \nabla_\theta L(\theta)$, $L$ is the loss, products and squares are elementwise, the norm is over all
    parameters, and $d$ is constant. $p$ are the predictions; $p'$ are others, chosen by `distance`:

    - `previous` (the paper's TRAM-$\theta_{t-1}$): of the weights before the last step. In the first step $d$ is 0, so
      it is ERM's.
    - `pretrained` (TRAM-$\theta_0$): of the initial weights.
    - `noise` (TRAM-x): of the present weights on inputs with Gaussian noise of deviation `sigma`; for texts and graphs,
      on embeddings with that noise.
    - `fisher` (TRAM-Fisher) has no $d$: $\epsilon = \gamma\, F g / \sqrt{g \cdot F g}$ with $F = 1 / (1 + \eta f)$,
      where $f$ is the squared gradient of the mean of $\log p(y \mid x + \text{noise})$. $\gamma$ and $\eta$ are
      `fisher_gamma` and `fisher_eta`.

    Reference:
        Sherborne, Saphra, Dasigi and Peng, "TRAM: Bridging Trust Regions and Sharpness Aware Minimization", ICLR 2024.

    Departures from the paper:

    - Images and vectors have no embeddings; they get the noise as the network takes them.
    - Equation 8 of the paper has neither $\gamma$ nor $\eta$. They stand where Fisher SAM, to which it refers, has
      them, with the values that the paper gives for that method.
    - `fisher` costs a third backward pass, which the paper's table leaves out.

    Departures from the authors' code:

    - $\epsilon$ is the paper's Equation 7. Theirs lacks the factor $g$, so that the sign of a weight's move is left to
      chance.
    - $d$ is the KL divergence of an example. Theirs is divided once more by the numbers of examples and classes, which
      `kl_reduction="repo"` does.
    - $p$ and $p'$ are both without dropout, and with live batch norm both use the statistics of the minibatch. Theirs
      compares a model in training mode with one in evaluation mode.
    - The reference of `previous` is copied between the measurement and the step. A copy taken after the step equals the
      present model, and $d$ would be nothing but dropout.

    DomainBed: has no TRAM.
    """

    card = RuleCard(
        paper="Sherborne et al., ICLR 2024",
        link="https://arxiv.org/abs/2310.03646",
        tags=("flat-minima",),
        forwards=3.0,
        backwards=2.0,
        forwards_beside=2.0,
        followers=("reference",),
        needs=("classes",),
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Hyperparameters of TRAM; the paper searches none of them, since doing without a radius is its point."""

        distance: str = hparam(
            "previous", help="predictions to compare with; their distance is the radius", options=DISTANCES
        )
        kl_reduction: str = hparam(
            "batchmean", help="mean over examples, or the smaller number of the authors' code", options=REDUCTIONS
        )
        sigma: float = hparam(
            0.1, help="standard deviation of the noise, with distance noise or fisher", within="[0, inf)"
        )
        fisher_gamma: float = hparam(0.1, help="length of the step uphill, with distance fisher", within="[0, inf)")
        fisher_eta: float = hparam(
            0.1, help="how much Fisher information shortens a weight's step, with distance fisher", within="[0, inf)"
        )

    hparams: Hparams

    def build(self) -> None:
        """Copy the initial weights if predictions are compared with those of a copy."""
        super().build()
        if self.hparams.distance in ("previous", "pretrained"):
            self.reference = copy.deepcopy(self.network).requires_grad_(False)

    def backward(self, batches: Sequence[Batch], first: First | None = None) -> Mapping[str, Tensor]:
        """Take the gradient at the end of the step uphill; the reference of `previous` becomes the present weights."""
        x, y = torch.cat([b.x for b in batches]), torch.cat([b.y for b in batches])
        features = None
        if first is None and self.stepped is None:  # one pass serves both the loss and the distance
            features = self.network.features(x)
            loss = F.cross_entropy(self.network.classifier(self.network.dropout(features)), y)
            first = First({"loss": loss}, *gradient(loss, self.parameters()))
            features = features.detach()
        first = first or self.first_pass(batches)
        if self.hparams.distance == "fisher":
            radius, by = self._fisher_step(first, x, y)
        else:
            radius = self.radius(x, features)
            by = scale_to_adaptive_length(first.gradients, [p.detach() for p in first.parameters], radius, eps=1e-12)
        # After the distance was measured and before the optimizer steps, so that the next step compares with these
        # weights.
        if self.hparams.distance == "previous":
            with torch.no_grad():
                torch._foreach_copy_(list(self.reference.parameters()), list(self.network.parameters()))
        uphill, _ = backward_at(self, batches, first.parameters, by)
        return {**self.logged(first, uphill), "radius": radius}

    def surrogate(self, loss: Tensor, parameters: list[Tensor], gradients: list[Tensor]) -> Tensor:
        """Return the loss at the weights: the radius is no function of it."""
        return loss

    @torch.no_grad()
    def radius(self, x: Tensor, features: Tensor | None = None) -> Tensor:
        """Return the radius d of this step, a scalar without a gradient.

        Args:
            x: Inputs (B, ...) of all domains.
            features: Their features (B, num_features) under the present weights, before dropout; None: computed.
        """
        if features is None:
            with frozen_batch_norm_statistics(self.network):
                features = self.network.features(x)
        if self.hparams.distance == "noise":
            with frozen_batch_norm_statistics(self.network):
                other = self.network.classifier(self.network.noisy_features(x, self.hparams.sigma))
        else:
            other = self.reference.classifier(self.reference.features(x))
        now, then = (F.log_softmax(z, dim=1) for z in (self.network.classifier(features), other))
        # Rounding may put a divergence of 0 slightly below it, and TRAM must not go downhill.
        d = F.kl_div(now, then, reduction="batchmean", log_target=True).clamp(min=0)
        return d / now.numel() if self.hparams.kl_reduction == "repo" else d

    def _fisher_step(self, first: First, x: Tensor, y: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the length factor and the displacements of `fisher`, for which one more backward pass is made."""
        h = self.hparams
        with frozen_batch_norm_statistics(self.network):
            features = self.network.noisy_features(x, h.sigma)
            loss = F.cross_entropy(self.network.classifier(self.network.dropout(features)), y)
            reached, found = gradient(loss, first.parameters)
        # Parameters that the predictions don't depend on have no information, and move by their plain gradient.
        information = {id(parameter): g for parameter, g in zip(reached, found, strict=True)}
        scaled = [
            g / (1 + h.fisher_eta * information[id(p)].square()) if id(p) in information else g
            for p, g in zip(first.parameters, first.gradients, strict=True)
        ]
        product = torch.stack([part.sum() for part in torch._foreach_mul(first.gradients, scaled)]).sum()
        length = h.fisher_gamma / (product.sqrt() + 1e-12)
        return length, list(torch._foreach_mul(scaled, length))
