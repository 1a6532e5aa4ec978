"""Transfer: no classifier near the learned one should make the domains' losses differ."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call

from dgbench.core.cards import AlgorithmCard
from dgbench.core.space import choice, hparam, power, uniform
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.ascent import global_norm
from dgbench.methods.batch import Batch


class Transfer(Algorithm):
    r"""Minimize the largest gap between domain losses over all classifiers near the learned one.

    $$
    \min_{f, c} \; \mathrm{CE}(c(f)) + \lambda \max_{\|h - c\| \le \delta}
    \Big( \max_e L_e(h(f)) - \min_e L_e(h(f)) \Big)
    $$

    $f$ is the featurizer, $c$ the classifier, $L_e$ the loss of domain $e$; $\lambda$ is `t_lambda` and $\delta$ is
    `delta`. A step descends the cross-entropy; then, by $f$ alone, the gap of the $h$ found in the step before; then it
    finds the next $h$, starting from $c$, by `d_steps_per_g` steps of gradient ascent on the gap, each projected to the
    ball around $c$.

    Reference:
        Zhang, Zhao, Yu and Poupart, "Quantifying and Improving Transferability in Domain Generalization", NeurIPS 2021.

    Departures from DomainBed's code, which is the authors': with `gda`, theirs hands $h$ to the optimizer in place of
    $f$ and $c$. Our `gda` descends by plain gradient descent, as the ascent climbs, whatever the setting's optimizer.
    The steps of ascent share one pass through the featurizer.
    """

    card = AlgorithmCard(
        paper="Zhang et al., NeurIPS 2021",
        link="https://arxiv.org/abs/2106.03632",
        tags=("distribution-robustness", "adversarial"),
        forwards=3.0,
        backwards=2.0,
        min_domains=2,
        penalties=("t_lambda",),
        base=None,
        rehearsal={"lr_d": 0.1},
        unlike_domainbed="with gda on, in every random draw, featurizer and classifier are never trained",
        experimental="what gda does: its published code trains nothing",
        needs=("own_classifier", "learning_classifier"),
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Hyperparameters of Transfer; defaults and draws are DomainBed's."""

        t_lambda: float = hparam(1.0, power(10, -2, 1), help="weight of the gap; the ascent's steps grow with it")
        delta: float = hparam(
            2.0, uniform(0.1, 3.0), help="radius of the ball around the classifier", within="(0, inf)"
        )
        d_steps_per_g: int = hparam(10, choice(1, 2, 5), help="steps of ascent", within="[1, inf)")
        gda: bool = hparam(
            False, choice(True), help="descend by plain gradient descent, not by the setting's optimizer"
        )
        lr_d: float = hparam(1e-3, power(10, -4.5, -2.5), help="learning rate of the ascent", within="[0, inf)")
        weight_decay_d: float = hparam(0.0, power(10, -6, -2), help="unused, as in DomainBed")
        beta1: float = hparam(0.5, choice(0.0, 0.5), help="unused, as in DomainBed")

    hparams: Hparams

    def build(self) -> None:
        """Create the adversarial classifier h as a copy of the classifier; with `gda`, make plain SGD the optimizer."""
        self.adversary = copy.deepcopy(self.network.classifier)
        if self.hparams.gda:
            self.setting = dataclasses.replace(self.setting, optimizer="sgd", momentum=0.0)

    def build_optimizers(self) -> None:
        """Create one optimizer for the network; h climbs without one."""
        self.optimizer = self.new_optimizer(self.network.parameters())

    def update(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """Take two steps of descent, then the ascent: three forward and two backward passes through the featurizer."""
        loss = self.joint_loss(batches)
        self.descend(loss)
        adversary = {name: p.detach() for name, p in self.adversary.named_parameters()}
        gap = self.hparams.t_lambda * self._gap(adversary, self.domain_features(batches), batches)
        # No gradient reaches the network if the featurizer is frozen.
        if gap.requires_grad:
            self.descend(gap)
        with torch.no_grad():
            features = self.domain_features(batches)
        self._ascend(features, batches)
        return {"loss": loss.detach(), "gap": gap.detach()}

    def _gap(self, head: dict[str, Tensor], features: Sequence[Tensor], batches: Sequence[Batch]) -> Tensor:
        """Return the greatest minus the smallest of the domains' losses under a classifier with parameters `head`."""
        sizes = [len(b.y) for b in batches]
        logits = functional_call(self.adversary, head, (torch.cat(list(features)),)).split(sizes)
        losses = torch.stack([self.criterion(z, b.y) for z, b in zip(logits, batches, strict=True)])
        return losses.max() - losses.min()

    def _ascend(self, features: Sequence[Tensor], batches: Sequence[Batch]) -> None:
        """Climb from the classifier to the h of the largest gap within the ball, and keep it as the adversary."""
        h = self.hparams
        names = [name for name, _ in self.adversary.named_parameters()]
        center = [p.detach() for p in self.network.classifier.parameters()]
        found = [p.clone() for p in center]
        for _ in range(h.d_steps_per_g):
            found = [p.requires_grad_() for p in found]
            gap = self._gap(dict(zip(names, found, strict=True)), features, batches)
            gradients = torch.autograd.grad(gap, found)
            with torch.no_grad():
                climbed = torch._foreach_add(found, gradients, alpha=h.lr_d * h.t_lambda)
                away = torch._foreach_sub(climbed, center)
                # Back onto the ball's surface along the ray from its center, if the step has left the ball.
                inside = (h.delta / global_norm(list(away))).clamp(max=1)
                found = list(torch._foreach_add(center, torch._foreach_mul(away, inside)))
        with torch.no_grad():
            torch._foreach_copy_(list(self.adversary.parameters()), found)
