"""ADRMX: separate the features of the label from those of the domain by subtraction, and remix them across domains."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dgbench.algorithms._adversary import discriminator, domain_labels, is_discriminators_turn
from dgbench.core.cards import AlgorithmCard
from dgbench.core.needs import Need
from dgbench.core.setting import Setting
from dgbench.core.space import choice, hparam
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.batch import Batch
from dgbench.methods.hparams import from_scratch
from dgbench.networks.builtin import classifier
from dgbench.networks.network import Network, build_network

_TEMPERATURE, _EPS = 0.07, 1e-5


class ADRMX(Algorithm):
    r"""Subtract domain features from label features until no domain shows; train on features remixed across domains.

    $$
    \begin{aligned}
    \min_{f, g, c, c', k} \; \max_d \quad & \mathrm{CE}(c(f), y) + \mathrm{CE}(c'(f - g), y)
    + \lambda_\text{dclf}\, \mathrm{CE}(k(g), e) + \lambda_\text{cnt} \big(S(f) + S(f - g)\big) \\
    & + \lambda_\text{rmxd}\, R - \lambda_\text{disc}\, \mathrm{CE}(d(f - g), e)
    \end{aligned}
    $$

    $f$ and $g$ are two featurizers and $e$ is the domain; $c(f)$ predicts. $S$ is a supervised contrastive loss. $R$,
    the remix loss, is a sum over classes, divided by their number: $c$ must find the class from $f - g$ of one example
    plus $g$ of another example of the class from another domain. In turns, the discriminator $d$ takes
    `d_steps_per_g_step` steps and everything else one.

    $S$ is that of DomainBed's code, which is the authors': within and across domains weigh alike (1/2), 1e-5 is added
    to denominators and shares, and the sum over the examples that have another of their class is divided by their
    number plus 1.

    Reference:
        Demirel, Aptoula and Ozkan, "ADRMX: Additive Disentanglement of Domain Features with Remix Loss", arXiv 2023.

    Departures from DomainBed's code: the remixed pair (theirs is of any class and domain); no loop over examples or
    classes. As there, $c$, $c'$ and $k$ are nonlinear and `weight_decay` is not used.
    """

    card = AlgorithmCard(
        paper="Demirel et al., arXiv 2023",
        link="https://arxiv.org/abs/2308.06624",
        tags=("disentanglement", "adversarial", "augmentation"),
        forwards=2.0,
        backwards=0.67,
        min_domains=2,
        penalties=("cnt_lambda", "dclf_lambda", "rmxd_lambda", "disc_lambda"),
        base=None,
        unlike_domainbed="remix takes an index in the class for one in the minibatch: pairs of any class and domain",
        needs=("classes", "random_classifier", Need("inputs", why="has a second network that reads inputs")),
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Hyperparameters of ADRMX; defaults and draws are DomainBed's."""

        lr: float = hparam(
            3e-5,
            choice(2e-5, 3e-5, 4e-5, 5e-5),
            variants=from_scratch(3e-3, choice(5e-4, 1e-3, 2e-3, 3e-3)),
            within="[0, inf)",
        )
        cnt_lambda: float = hparam(1.0, help="weight of both supervised contrastive losses")
        dclf_lambda: float = hparam(1.0, help="weight of the loss of the domain classifier k")
        rmxd_lambda: float = hparam(1.0, help="weight of the remix loss")
        disc_lambda: float = hparam(0.75, help="weight of the discriminator's loss")
        d_steps_per_g_step: int = hparam(
            2, help="the discriminator's steps for each of the network's", within="[1, inf)"
        )
        beta1: float = hparam(0.5, help="first beta of Adam; the second is 0.9", within="[0, 1)")
        mlp_width: int = hparam(256, help="width of the discriminator", within="[1, inf)")
        mlp_depth: int = hparam(9, choice(8, 9, 10), help="linear layers of the discriminator", within="[2, inf)")
        mlp_dropout: float = hparam(0.0, help="dropout in the discriminator", within="[0, 1)")

    hparams: Hparams

    @classmethod
    def make_network(cls, input_shape: Sequence[int], num_classes: int, hparams: Any, setting: Setting) -> Network:
        """Build the run's network, with a nonlinear classifier whatever the setting says."""
        setting = dataclasses.replace(setting, nonlinear_classifier=True)
        return build_network(input_shape, num_classes, setting, hparams.resnet_dropout)

    def build(self) -> None:
        """Create the domain network (g and k), the second classifier c' and the discriminator d."""
        n, domains = self.network.num_features, self.task.num_domains
        self.domain_network = self.new_network()
        self.domain_network.freeze(self.setting.freeze)
        self.domain_network.classifier = classifier(n, domains, nonlinear=True)
        self.invariant_classifier = classifier(n, self.task.num_classes, nonlinear=True)
        self.discriminator = discriminator(n, domains, self.hparams)

    def build_optimizers(self) -> None:
        """Create one optimizer for the discriminator and one for everything else."""
        options: dict[str, Any] = {"weight_decay": 0.0, "betas": (self.hparams.beta1, 0.9)}
        modules = (self.network, self.domain_network, self.invariant_classifier)
        self.optimizer = self.new_optimizer([p for module in modules for p in module.parameters()], **options)
        self.disc_optimizer = self.new_optimizer(self.discriminator.parameters(), **options)

    def update(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """Take one step of the discriminator or of everything else, whichever has its turn."""
        x, y, domains = torch.cat([b.x for b in batches]), torch.cat([b.y for b in batches]), domain_labels(batches)
        train_discriminator = is_discriminators_turn(self.step, self.hparams.d_steps_per_g_step)
        # The discriminator's gradient stops at its inputs, so in its turn the featurizers need no graph.
        with torch.set_grad_enabled(not train_discriminator):
            label, domain = (net.dropout(net.features(x)) for net in (self.network, self.domain_network))
            nll = F.cross_entropy(self.network.classifier(label), y)
        disc_loss = F.cross_entropy(self.discriminator(label - domain), domains)
        if train_discriminator:
            self.disc_optimizer.zero_grad(set_to_none=True)
            disc_loss.backward()  # type: ignore[no-untyped-call]
            self.disc_optimizer.step()
        else:
            rest = self._others(label, domain, y, domains)
            self.descend(nll + rest - self.hparams.disc_lambda * disc_loss)
        return {"loss": nll.detach(), "disc_loss": disc_loss.detach()}

    def _others(self, label: Tensor, domain: Tensor, y: Tensor, domains: Tensor) -> Tensor:
        """Return the sum of the losses but for the classifier's own and the discriminator's."""
        h, invariant = self.hparams, label - domain
        loss = F.cross_entropy(self.invariant_classifier(invariant), y)
        loss = loss + h.dclf_lambda * F.cross_entropy(self.domain_network.classifier(domain), domains)
        loss = loss + h.cnt_lambda * (sup_con(label, y) + sup_con(invariant, y))
        first, second, found = remixed_pairs(y, domains, self.task.num_classes)
        remixed = self.network.classifier(invariant[first] + domain[second])
        losses = F.cross_entropy(remixed, y[first], reduction="none")
        return loss + h.rmxd_lambda * (losses * found).sum() / self.task.num_classes


def remixed_pairs(y: Tensor, domains: Tensor, num_classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draw, for each class, two of its examples that come from different domains.

    Each ordered pair of such examples is as likely as any other.

    Args:
        y: Classes (n,), int64.
        domains: Domain numbers (n,), int64.
        num_classes: K.

    Returns:
        (first, second, found), each (K,): the examples' indices, and whether the class has such a pair; where it has
        none the indices mean nothing.
    """
    # A random key for each ordered pair; the greatest among a class's pairs wins. No value is read on the host.
    keys = torch.rand(len(y), len(y), device=y.device)
    keys = keys.masked_fill((y[:, None] != y) | (domains[:, None] == domains), -1)
    best, partner = keys.max(dim=1)
    of_class = y == torch.arange(num_classes, device=y.device)[:, None]
    key, first = best.expand_as(of_class).masked_fill(~of_class, -1).max(dim=1)
    return first, partner[first], key >= 0


def sup_con(features: Tensor, y: Tensor) -> Tensor:
    """Compute the supervised contrastive loss of DomainBed's ADRMX, a scalar; 0 where no class occurs twice."""
    z = F.normalize(features, dim=1)
    other = ~torch.eye(len(y), dtype=torch.bool, device=y.device)
    # 1/2 is DomainBed's weight of both the same domain and other domains; beside `_EPS` it changes the value.
    weights = (z @ z.T / _TEMPERATURE).exp() / 2 * other
    shares = weights / (weights.sum(dim=1, keepdim=True) + _EPS)
    same_class = (y[:, None] == y) & other
    counts = same_class.sum(dim=1)
    means = ((shares + _EPS).log() * same_class).sum(dim=1) / counts.clamp(min=1)
    return -means.sum() / ((counts > 0).sum() + 1)
