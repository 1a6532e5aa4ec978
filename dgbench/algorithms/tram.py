"""SAM whose radius is a trust region: how far the predictions have moved, or move under noise."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dgbench.core.cards import AlgorithmCard
from dgbench.core.space import hparam
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm, Batch
from dgbench.methods.ascent import backward_at, gradient, of_adaptive_length, remembering_nothing

DISTANCES = ("previous", "pretrained", "noise", "fisher")
REDUCTIONS = ("batchmean", "repo")


class TRAM(Algorithm):
    """min over theta of L(theta + eps), eps = d * theta^2 g / (||theta g|| + 1e-12), d = mean_x KL(p'(x) || p(x)).

    Sherborne, Saphra, Dasigi and Peng, "TRAM: Bridging Trust Regions and Sharpness Aware Minimization", ICLR 2024.
    g = grad L(theta), L is ERM's loss, products are elementwise, the norm is over all parameters; d is constant. p' are
    the predictions, by `distance`: `previous`, of the weights before the last step (TRAM-theta_{t-1}; d is 0 in the
    first step, which is ERM's); `pretrained`, of the initial weights (TRAM-theta_0); `noise`, of the present weights on
    inputs with Gaussian noise (TRAM-x), of texts and graphs on the embeddings. `fisher` (TRAM-Fisher) has no d:
    eps = gamma * F g / sqrt(g . F g), F = 1 / (1 + eta f), f the squared gradient of mean log p(y | x + noise).

    Departures from the paper: images and vectors, which have no embeddings, get the noise as the network takes them.
    Eq. 8 of the paper has neither gamma nor eta; both are where Fisher SAM, which it points to, has them, and have the
    values that it gives for that method. `fisher` costs a third backward pass, which the paper's table leaves out.
    From the authors' code: eps is Eq. 7 (theirs lacks the factor g, so every weight moves uphill or not by chance),
    and d is the KL divergence of an example (theirs divides once more by examples and classes: `kl_reduction`
    `repo`); p and p' are both without dropout, and with live batch norm both use the minibatch's statistics (theirs
    compares a model in training mode with one in evaluation mode); the reference of `previous` is taken between the
    measurement and the step, for a copy taken after the step is the present model and d nothing but dropout.
    """

    card = AlgorithmCard(
        paper="Sherborne et al., ICLR 2024", forwards=3.0, backwards=2.0, followers=("reference",), needs=("classes",)
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """The paper searches none of them: doing without a radius is its point."""

        distance: str = hparam("previous", help="what predictions are compared with", options=DISTANCES)
        kl_reduction: str = hparam("batchmean", help="mean over examples, or the authors' code's", options=REDUCTIONS)
        sigma: float = hparam(0.1, help="standard deviation of the noise of noise and fisher", within="[0, inf)")
        fisher_gamma: float = hparam(0.1, help="length of the step uphill of fisher", within="[0, inf)")
        fisher_eta: float = hparam(
            0.1, help="how much the Fisher information shortens a weight's step in fisher", within="[0, inf)"
        )

    hparams: Hparams

    def build(self) -> None:
        """Copy the initial weights where some are compared with."""
        if self.hparams.distance in ("previous", "pretrained"):
            self.reference = copy.deepcopy(self.network).requires_grad_(False)

    def update(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """One step; the reference becomes the weights of now before they change."""
        x, y = torch.cat([b.x for b in batches]), torch.cat([b.y for b in batches])
        features = self.network.features(x)
        loss = F.cross_entropy(self.network.classifier(self.network.dropout(features)), y)
        parameters, g = gradient(loss, self.parameters())
        if self.hparams.distance == "fisher":
            radius, uphill = self._fisher_step(parameters, g, x, y)
        else:
            radius = self.radius(x, features.detach())
            uphill = of_adaptive_length(g, [p.detach() for p in parameters], radius, eps=1e-12)
        if self.hparams.distance == "previous":
            with torch.no_grad():
                torch._foreach_copy_(list(self.reference.parameters()), list(self.network.parameters()))
        at_top, _ = backward_at(self, batches, parameters, uphill)
        self.optimizer.step()
        return {"loss": loss.detach(), "sharpness": at_top - loss.detach(), "radius": radius}

    @torch.no_grad()
    def radius(self, x: Tensor, features: Tensor) -> Tensor:
        """d, given the features of the present weights."""
        if self.hparams.distance == "noise":
            with remembering_nothing(self.network):
                other = self.network.classifier(self.network.noisy_features(x, self.hparams.sigma))
        else:
            other = self.reference.classifier(self.reference.features(x))
        now, then = (F.log_softmax(z, dim=1) for z in (self.network.classifier(features), other))
        # A divergence of nothing may be a rounding error below 0, and TRAM must not go downhill.
        d = F.kl_div(now, then, reduction="batchmean", log_target=True).clamp(min=0)
        return d / now.numel() if self.hparams.kl_reduction == "repo" else d

    def _fisher_step(
        self, parameters: list[Tensor], g: list[Tensor], x: Tensor, y: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        h = self.hparams
        with remembering_nothing(self.network):
            features = self.network.noisy_features(x, h.sigma)
            loss = F.cross_entropy(self.network.classifier(self.network.dropout(features)), y)
            _, information = gradient(loss, parameters)
        scaled = [v / (1 + h.fisher_eta * f.square()) for v, f in zip(g, information, strict=True)]
        product = torch.stack([part.sum() for part in torch._foreach_mul(g, scaled)]).sum()
        length = h.fisher_gamma / (product.sqrt() + 1e-12)
        return length, list(torch._foreach_mul(scaled, length))
