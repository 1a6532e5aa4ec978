"""Style-agnostic networks: predict from content under random styles, not from style under random contents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dgbench.core.cards import AlgorithmCard
from dgbench.core.space import hparam, power
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.batch import Batch
from dgbench.networks.builtin import classifier

_EPS = 1e-5


class SagNet(Algorithm):
    r"""Predict from content under random styles, and make style useless for predicting the class.

    $$
    \min_{f, c} \mathrm{CE}\big(c(r(f)),\, y\big), \qquad
    \min_s \mathrm{CE}\big(s(q(f)),\, y\big), \qquad
    \min_f \; w\, \mathrm{CE}\big(s(q(f)),\, \mathrm{uniform}\big)
    $$

    The style of an example is mean and variance of its features $f$; its content is what remains when they are taken
    out. $r$ gives the features a style between their own and another example's. $q$ keeps their style and gives them
    another example's content, held constant. $c$ is the classifier, $s$ the style network, $w$ is `sag_w_adv`. The
    three steps are taken in this order.

    Reference:
        Nam, Lee, Park, Yoon and Yoo, "Reducing Domain Gap by Reducing Style Bias", CVPR 2021.

    Departures from the paper, all as in DomainBed: style is that of the feature vector, not of each channel of a
    feature map inside the network, and $c$ and $s$ are classifiers. All of $f$ moves in the adversarial step, by an
    unclipped gradient; in the paper only the affine parameters of its norms. Variances are mixed, not deviations.

    Departures from DomainBed's code: the step of the style network sends nothing back through $f$ (there, that gradient
    is thrown away) and shares its forward pass with the adversarial step, which leaves two passes of three. One dropout
    mask serves both. $f$ and $c$ share an optimizer, which changes nothing but clipping.
    """

    card = AlgorithmCard(
        paper="Nam et al., CVPR 2021",
        link="https://arxiv.org/abs/1910.11645",
        tags=("augmentation", "adversarial", "disentanglement"),
        forwards=2.0,
        backwards=2.0,
        penalties=("sag_w_adv",),
        base=None,
        needs=("classes",),
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Hyperparameters of SagNet; default and draw are DomainBed's."""

        sag_w_adv: float = hparam(0.1, power(10, -2, 1), help="weight of the adversarial step")

    hparams: Hparams

    def build(self) -> None:
        """Create the style network, a classifier like the network's."""
        n, nonlinear = self.network.num_features, self.setting.nonlinear_classifier
        self.style = classifier(n, self.task.num_classes, nonlinear=nonlinear)

    def build_optimizers(self) -> None:
        """Create two optimizers: one for the network, one for the style network."""
        self.optimizer = self.new_optimizer(self.network.parameters())
        self.style_optimizer = self.new_optimizer(self.style.parameters())

    def update(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """Take three steps: content, style, adversary."""
        x, y = torch.cat([b.x for b in batches]), torch.cat([b.y for b in batches])
        loss = F.cross_entropy(self.network.classifier(randomize_style(self._features(x))), y)
        self.descend(loss)

        features = self._features(x)
        # Detached: this step moves the style network alone. The adversarial step goes through the same features.
        style_loss = F.cross_entropy(self.style(randomize_content(features.detach())), y)
        self.style_optimizer.zero_grad(set_to_none=True)
        style_loss.backward()  # type: ignore[no-untyped-call]
        self.style_optimizer.step()

        # With the uniform distribution over classes as target.
        adversarial = -self.style(randomize_content(features)).log_softmax(dim=1).mean()
        self.descend(self.hparams.sag_w_adv * adversarial)
        return {"loss": loss.detach(), "style_loss": style_loss.detach(), "adversarial": adversarial.detach()}

    def _features(self, x: Tensor) -> Tensor:
        features: Tensor = self.network.dropout(self.network.features(x))
        return features


def randomize_style(features: Tensor) -> Tensor:
    """Return each row's content in a style between its own and another row's: (B, num_features) to the same shape."""
    content, mean, variance = _split_style(features)
    share, other = torch.rand_like(mean), torch.randperm(len(features), device=features.device)
    mean = torch.lerp(mean[other], mean, share)
    variance = torch.lerp(variance[other], variance, share)
    return content * (variance + _EPS).sqrt() + mean


def randomize_content(features: Tensor) -> Tensor:
    """Return another row's content, held constant, in each row's own style: (B, num_features) to the same shape."""
    content, mean, variance = _split_style(features)
    other = torch.randperm(len(features), device=features.device)
    return content[other].detach() * (variance + _EPS).sqrt() + mean


def _split_style(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return content, mean and variance of each row; the variance is unbiased."""
    variance, mean = torch.var_mean(features, dim=1, keepdim=True)
    return (features - mean) / (variance + _EPS).sqrt(), mean, variance
