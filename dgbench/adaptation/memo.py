"""MEMO: each test input is learned from alone, by the mean prediction of its augmentations."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.transforms import v2

from dgbench.adaptation._augment import augmented
from dgbench.core.cards import AdapterCard
from dgbench.core.space import Checked, choice, hparam
from dgbench.methods.adapter import Adapter
from dgbench.networks.network import Network
from dgbench.networks.norms import batch_norms


class MEMO(Adapter):
    r"""Minimize the entropy of an input's mean prediction over augmentations, predict it, and forget.

    $$
    \min_\theta \; H(\bar p), \qquad \bar p = \frac1N \sum_{i=1}^{N} \mathrm{softmax}\, f(\zeta_i(x); \theta)
    $$

    $\zeta_i$ are `copies` random augmentations (AugMix after a shift and a flip), $H$ is the entropy. For each input by
    itself `steps` steps of SGD are taken from the trained weights, all of which learn; then the input is predicted.
    Neither the order of a stream nor its batches change a prediction, up to the draws of augmentations.

    Batch norm normalizes by statistics of training and of what it is given, as Schneider et al. have it for a single
    input: mean and variance are $\frac{N_0}{N_0 + 1}$ times those of training plus $\frac{1}{N_0 + 1}$ times those of
    the copies (of the input, when it is predicted), $N_0$ being `prior`. They have no gradient.

    Reference:
        Zhang, Levine and Finn, "MEMO: Test Time Robustness via Adaptation and Augmentation", NeurIPS 2022.

    Departures from the authors' code:

    - AugMix is torchvision's without changes of color, at severity 3 (the least three of ten magnitudes, the first of
      which changes nothing); theirs draws magnitudes from 1% to 10% of the largest.
    - Images are shifted by up to an eighth of their side, as in their code for CIFAR-10, at any size.
    - A variance of a single value, which theirs has none of, is 0.
    """

    card = AdapterCard(
        needs=("images",),
        paper="Zhang et al., NeurIPS 2022",
        link="https://arxiv.org/abs/2110.09506",
        tags=("test-time", "augmentation"),
        forwards=33.0,
        backwards=32.0,
    )

    @dataclass(frozen=True)
    class Hparams(Checked):
        """Hyperparameters of MEMO: defaults are those of the authors for a ResNet-50, with half as many copies."""

        lr: float = hparam(2.5e-4, choice(2.5e-5, 2.5e-4, 2.5e-3), help="learning rate at test time", within="[0, inf)")
        steps: int = hparam(1, help="optimizer steps on each input", within="[1, inf)")
        copies: int = hparam(32, help="augmentations of an input", within="[1, inf)")
        prior: float = hparam(
            16.0, help="weight of the training's batch-norm statistics against 1 for the input's", within="[0, inf)"
        )

    hparams: Hparams

    def __init__(self, network: Network, hparams: Any) -> None:
        super().__init__(network.eval().requires_grad_(True), hparams)
        for norm in batch_norms(network):
            if isinstance(norm, _BatchNorm) and norm.running_mean is not None:
                _mix_statistics(norm, self.hparams.prior / (self.hparams.prior + 1))
        self._parameters = list[Tensor](network.parameters())
        self._initial = [parameter.detach().clone() for parameter in self._parameters]

    def predict(self, x: Tensor) -> Tensor:
        """Return logits (B, classes), each after learning from its input alone."""
        return torch.cat([self._predict(one[None]) for one in x])

    def _predict(self, x: Tensor) -> Tensor:
        """Return the logits of one input (1, classes), and leave the weights as they were."""
        transform = _transform(x.shape[-1])
        for _ in range(self.hparams.steps):
            copies = torch.cat([augmented(self.network, x, transform) for _ in range(self.hparams.copies)])
            loss = _entropy_of_mean(self.network(copies))
            gradients = torch.autograd.grad(loss, self._parameters, allow_unused=True)
            with torch.no_grad():
                for parameter, gradient in zip(self._parameters, gradients, strict=True):
                    if gradient is not None:
                        parameter.sub_(gradient, alpha=self.hparams.lr)
        with torch.no_grad():
            logits: Tensor = self.network(x)
            torch._foreach_copy_(self._parameters, self._initial)
        return logits


def _entropy_of_mean(logits: Tensor) -> Tensor:
    """Return the entropy of the mean of the predictions of logits (N, classes), in nats."""
    logs = logits.log_softmax(dim=1).logsumexp(dim=0) - math.log(len(logits))
    return -(logs.exp() * logs).sum()


def _mix_statistics(norm: _BatchNorm, prior: float) -> None:
    """Make a batch norm in evaluation mode mix `prior` parts of its running statistics with those of its input."""
    mean, var = norm.running_mean, norm.running_var
    assert mean is not None
    assert var is not None

    @torch.no_grad()
    def mix(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        axes = [axis for axis in range(inputs[0].dim()) if axis != 1]
        values = inputs[0].numel() // inputs[0].shape[1]
        found = torch.var_mean(inputs[0].to(mean.dtype), dim=axes, correction=min(1, values - 1))
        norm.running_var, norm.running_mean = (
            prior * old + (1 - prior) * new for old, new in zip((var, mean), found, strict=True)
        )

    norm.register_forward_pre_hook(mix)


def _transform(side: int) -> v2.Compose:
    """Make the augmentation of images (B, C, H, W) in [0, 1] of a side."""
    return v2.Compose(
        [
            v2.RandomCrop(side, padding=max(1, side // 8)),
            v2.RandomHorizontalFlip(),
            v2.AugMix(severity=3, all_ops=False, fill=0.5),
        ]
    )
