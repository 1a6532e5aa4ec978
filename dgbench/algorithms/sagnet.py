"""Style-agnostic networks: predict from content when style is random, and not from style when content is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dgbench.core.cards import AlgorithmCard
from dgbench.core.space import hparam, power
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm, Batch
from dgbench.networks.builtin import classifier

_EPS = 1e-5


class SagNet(Algorithm):
    """min over f, c of CE(c(restyled f)), over s of CE(s(f of random content)), over f of w * CE(s(...), uniform).

    Nam, Lee, Park, Yoon and Yoo, "Reducing Domain Gap by Reducing Style Bias", CVPR 2021. Style is mean and variance of
    an example's features, content what is left when they are taken out; `restyled` features have a style between their
    own and another example's, those of random content have another example's content, held constant.

    Departures from the paper, all as in DomainBed: style is that of the feature vector, not of each channel of a
    feature map in mid-network, and c and s are classifiers; all of f moves in the adversarial step (there the affine
    part of its norms), its gradient unclipped; variances are mixed, not deviations. From DomainBed's code: the style
    network's step sends nothing back through f (its gradient was thrown away) and shares its forward pass with the
    adversarial step, so two passes of three are left; one dropout mask serves both; f and c share an optimizer, which
    changes nothing but clipping.
    """

    card = AlgorithmCard(
        paper="Nam et al., CVPR 2021",
        forwards=2.0,
        backwards=2.0,
        penalties=("sag_w_adv",),
        base=None,
        needs=("classes",),
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Default and draw are DomainBed's."""

        sag_w_adv: float = hparam(0.1, power(10, -2, 1), help="weight of the adversarial step")

    hparams: Hparams

    def build(self) -> None:
        """Make the style network."""
        n, nonlinear = self.network.num_features, self.setting.nonlinear_classifier
        self.style = classifier(n, self.task.num_classes, nonlinear=nonlinear)

    def build_optimizers(self) -> None:
        """One for the network, one for the style network."""
        self.optimizer = self.new_optimizer(self.network.parameters())
        self.style_optimizer = self.new_optimizer(self.style.parameters())

    def update(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """Three steps: content, style, adversary."""
        x, y = torch.cat([b.x for b in batches]), torch.cat([b.y for b in batches])
        loss = F.cross_entropy(self.network.classifier(restyled(self._features(x))), y)
        self.descend(loss)

        features = self._features(x)
        style_loss = F.cross_entropy(self.style(refilled(features.detach())), y)
        self.style_optimizer.zero_grad(set_to_none=True)
        style_loss.backward()  # type: ignore[no-untyped-call]
        self.style_optimizer.step()

        # With the uniform distribution over classes as target.
        adversarial = -self.style(refilled(features)).log_softmax(dim=1).mean()
        self.descend(self.hparams.sag_w_adv * adversarial)
        return {"loss": loss.detach(), "style_loss": style_loss.detach(), "adversarial": adversarial.detach()}

    def _features(self, x: Tensor) -> Tensor:
        features: Tensor = self.network.dropout(self.network.features(x))
        return features


def restyled(features: Tensor) -> Tensor:
    """Each row's content in a style between its own and another row's."""
    content, mean, variance = _parted(features)
    share, other = torch.rand_like(mean), torch.randperm(len(features), device=features.device)
    mean = torch.lerp(mean[other], mean, share)
    variance = torch.lerp(variance[other], variance, share)
    return content * (variance + _EPS).sqrt() + mean


def refilled(features: Tensor) -> Tensor:
    """Another row's content, held constant, in each row's own style."""
    content, mean, variance = _parted(features)
    other = torch.randperm(len(features), device=features.device)
    return content[other].detach() * (variance + _EPS).sqrt() + mean


def _parted(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    variance, mean = torch.var_mean(features, dim=1, keepdim=True)
    return (features - mean) / (variance + _EPS).sqrt(), mean, variance
