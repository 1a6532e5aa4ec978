"""Smooth domain-adversarial training: sharpness-aware in the task, never in the game with the discriminator."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dgbench.algorithms._adversary import discriminator, domain_labels, gradient_reversal
from dgbench.core.cards import AlgorithmCard
from dgbench.core.space import choice, hparam, power
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.ascent import displaced_parameters, gradient, scale_to_length
from dgbench.methods.batch import Batch


class SDAT(Algorithm):
    r"""Train against a domain discriminator at weights displaced toward a higher task loss.

    $$
    \min_\theta \max_d \; \big[ L - \tau L_d \big](\theta + \epsilon), \qquad
    \epsilon = \frac{\rho\, g}{\|g\|_2 + 10^{-12}}, \quad g = \nabla_\theta L(\theta)
    $$

    $\theta$ are the network's parameters, $L$ is ERM's loss and $L_d$ the cross-entropy of a discriminator $d$ that
    sees the features and guesses the domain; $\tau$ is `trade_off`. Only the direction of $\epsilon$ comes from the
    task alone: all gradients, the discriminator's included, are those at $\theta + \epsilon$. The gradient of $L_d$ is
    reversed on its way into the featurizer and multiplied by $2 / (1 + e^{-t / r}) - 1$, which rises from 0 to 1 with
    the step $t$; $r$ is `reversal_steps`.

    Reference:
        Rangwani, Aithal, Mishra, Jain and Babu, "A Closer Look at Smoothness in Domain Adversarial Training", ICML
        2022.

    It is no composition with a step rule, although its ascent is SAM's. A rule climbs and descends one loss; $L_d$ must
    count at $\theta + \epsilon$ alone, and in full. Rules that mix in the gradient at $\theta$ (SAGM, GAM, GR) would
    weigh it otherwise, and of the turns of `DANN` and `CDANN` only the network's has a task loss to climb.

    Departures from the paper: the discriminator distinguishes the training domains. The paper adapts to a target
    domain, which its discriminator distinguishes from the source.

    Departures from the authors' code: the discriminator is DomainBed's MLP, without conditioning on the predictions;
    there is no term for confusion of classes; one learning rate serves all; live batch norm remembers the first pass
    alone.

    DomainBed: has no SDAT.
    """

    card = AlgorithmCard(
        paper="Rangwani et al., ICML 2022",
        link="https://arxiv.org/abs/2206.08213",
        tags=("flat-minima", "adversarial", "alignment"),
        forwards=2.0,
        backwards=2.0,
        min_domains=2,
        penalties=("rho", "trade_off"),
        rehearsal={"reversal_steps": 5},
        needs=("classes",),
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Hyperparameters of SDAT; those of the method are the authors', those of the discriminator DomainBed's."""

        rho: float = hparam(0.05, help="length of the step uphill", within="[0, inf)")
        trade_off: float = hparam(1.0, help="weight of the discriminator's loss")
        reversal_steps: int = hparam(
            1000, help="steps in which the reversed gradient grows to about half its weight", within="[1, inf)"
        )
        mlp_width: int = hparam(
            256, power(2, 6, 10, integer=True), help="width of the discriminator", within="[1, inf)"
        )
        mlp_depth: int = hparam(3, choice(3, 4, 5), help="linear layers of the discriminator", within="[2, inf)")
        mlp_dropout: float = hparam(0.0, choice(0.0, 0.1, 0.5), help="dropout in the discriminator", within="[0, 1)")

    hparams: Hparams

    def build(self) -> None:
        """Create the discriminator."""
        self.discriminator = discriminator(self.network.num_features, self.task.num_domains, self.hparams)

    def build_optimizers(self) -> None:
        """Create two optimizers: one for the network, one for the discriminator."""
        self.optimizer = self.new_optimizer(self.network.parameters())
        self.disc_optimizer = self.new_optimizer(self.discriminator.parameters())

    def update(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """Take one step of both players, for two forward and two backward passes."""
        loss = self.joint_loss(batches)
        parameters, g = gradient(loss, self.network.parameters())
        for optimizer in (self.optimizer, self.disc_optimizer):
            optimizer.zero_grad(set_to_none=True)
        with displaced_parameters(self, parameters, scale_to_length(g, self.hparams.rho)):
            features = self.network.dropout(self.network.features(torch.cat([b.x for b in batches])))
            uphill = F.cross_entropy(self.network.classifier(features), torch.cat([b.y for b in batches]))
            weight = 2 / (1 + math.exp(-self.step / self.hparams.reversal_steps)) - 1
            guesses = self.discriminator(gradient_reversal(features, weight))
            disc_loss = F.cross_entropy(guesses, domain_labels(batches))
            total = uphill + self.hparams.trade_off * disc_loss
            # Minimizes for both: the reversal turns the network's share of L_d into ascent.
            total.backward()  # type: ignore[no-untyped-call]
        for optimizer in (self.optimizer, self.disc_optimizer):
            optimizer.step()
        return {
            "loss": loss.detach(),
            "sharpness": (uphill - loss).detach(),
            "disc_loss": disc_loss.detach(),
        }
