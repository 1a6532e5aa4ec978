"""Uniform risk minimization: features spread evenly, as a discriminator sees them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dgbench.algorithms._networks import rebuild
from dgbench.core.cards import AlgorithmCard
from dgbench.core.setting import Setting
from dgbench.core.space import choice, hparam, power, uniform
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.batch import Batch
from dgbench.methods.hparams import from_scratch
from dgbench.networks.network import Network, build_network

OUTPUTS = ("tanh", "relu")
WIDTH = 100


class BoundedNetwork(Network):
    """Network of URM, whose features go through tanh or ReLU last."""

    output: str

    def features(self, x: Tensor) -> Tensor:
        """Return features (B, num_features): in (-1, 1) with tanh, at least 0 with relu."""
        features = super().features(x)
        return features.tanh() if self.output == "tanh" else features.relu()


class URM(Algorithm):
    r"""Push features toward a uniform distribution by a discriminator that compares them with noise.

    $$
    \min_{f, c} \; \mathrm{CE}(c(f)) - \lambda \log d(f), \qquad
    \min_d \; -\log d(u) - \lambda \log(1 - d(f)), \quad u \sim \mathrm{Uniform}
    $$

    The featurizer $f$ ends in `urm_generator_output`; $u$ is drawn from [-1, 1) for `tanh` and from [0, 1) for `relu`.
    $c$ is the classifier, $d$ the discriminator, $\lambda$ is `urm_adv_lambda`. A step moves $f$ and $c$, then $d$ on
    the features from before that.

    Reference:
        Krishnamachari, Ng and Foo, "Uniformly Distributed Feature Representations for Fair and Robust Learning", TMLR
        2024.

    Departures from DomainBed's code, which is the authors': dropout comes after the last activation, and the optimizer
    of $d$ is of the setting's kind; theirs has a choice of its own, Adam in every draw.
    """

    card = AlgorithmCard(
        paper="Krishnamachari et al., TMLR 2024",
        link="https://openreview.net/forum?id=PgLbS5yp8n",
        tags=("adversarial", "regularization"),
        penalties=("urm_adv_lambda",),
        base=None,
        needs=("classes",),
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Hyperparameters of URM; defaults and draws are DomainBed's."""

        urm_adv_lambda: float = hparam(0.1, uniform(0, 0.2), help="weight of the discriminator's terms")
        urm_discriminator_label_smoothing: float = hparam(
            0.0,
            help="largest distance of the discriminator's labels from 0 and 1, drawn anew each time",
            within="[0, 0.5]",
        )
        urm_discriminator_hidden_layers: int = hparam(
            1, choice(1, 2, 3), help="layers of the discriminator between its first and last", within="[0, inf)"
        )
        urm_generator_output: str = hparam(
            "tanh", choice("tanh", "relu"), help="activation that features go through last", options=OUTPUTS
        )
        urm_discriminator_lr: float = hparam(
            5e-5,
            power(10, -6, -4.5),
            help="learning rate of the discriminator",
            variants=from_scratch(1e-3, power(10, -5.5, -3.5)),
            within="[0, inf)",
        )

    hparams: Hparams
    network: BoundedNetwork

    @classmethod
    def make_network(cls, input_shape: Sequence[int], num_classes: int, hparams: Any, setting: Setting) -> Network:
        """Return the network with the activation after its featurizer."""
        plain = build_network(input_shape, num_classes, setting, hparams.resnet_dropout)
        network = rebuild(BoundedNetwork, plain, plain.num_features, num_classes, setting)
        network.output = hparams.urm_generator_output
        return network

    def build(self) -> None:
        """Create the discriminator."""
        layers: list[nn.Module] = [nn.Linear(self.network.num_features, WIDTH), nn.LeakyReLU()]
        for _ in range(self.hparams.urm_discriminator_hidden_layers):
            layers += [nn.Linear(WIDTH, WIDTH), nn.LeakyReLU()]
        self.discriminator = nn.Sequential(*layers, nn.Linear(WIDTH, 1))

    def build_optimizers(self) -> None:
        """Create two optimizers: one for the network, one for the discriminator with its own learning rate."""
        self.optimizer = self.new_optimizer(self.network.parameters())
        self.disc_optimizer = self.new_optimizer(self.discriminator.parameters(), lr=self.hparams.urm_discriminator_lr)

    def update(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """Take a step of the network, then one of the discriminator on the same features."""
        weight = self.hparams.urm_adv_lambda
        features = self.network.dropout(self.network.features(torch.cat([b.x for b in batches])))
        nll = F.cross_entropy(self.network.classifier(features), torch.cat([b.y for b in batches]))
        logits = self.discriminator(features)
        # The network wants its features taken for noise, whose label is 1.
        penalty = F.binary_cross_entropy_with_logits(logits, torch.ones_like(logits))
        self.descend(nll + weight * penalty)

        features = features.detach()
        noise = torch.rand_like(features)
        noise = 2 * noise - 1 if self.hparams.urm_generator_output == "tanh" else noise
        real, fake = self.discriminator(noise), self.discriminator(features)
        disc_loss = F.binary_cross_entropy_with_logits(real, 1 - self._smoothing(real))
        disc_loss = disc_loss + weight * F.binary_cross_entropy_with_logits(fake, self._smoothing(fake))
        self.disc_optimizer.zero_grad(set_to_none=True)
        disc_loss.backward()  # type: ignore[no-untyped-call]
        self.disc_optimizer.step()
        return {"loss": nll.detach(), "penalty": penalty.detach(), "disc_loss": disc_loss.detach()}

    def _smoothing(self, logits: Tensor) -> Tensor:
        """Draw the distance of each label from 0 or 1, in the shape of `logits`."""
        width = self.hparams.urm_discriminator_label_smoothing
        return width * torch.rand_like(logits) if width else torch.zeros_like(logits)
