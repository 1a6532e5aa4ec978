"""CoTTA: a slowly moving teacher predicts and teaches, and some weights go back to those of training."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam
from torchvision.transforms import v2

from dgbench.adaptation._augment import augmented
from dgbench.adaptation._batches import Batches
from dgbench.core.cards import AdapterCard
from dgbench.core.space import Checked, choice, hparam
from dgbench.methods.adapter import Adapter
from dgbench.networks.network import Network
from dgbench.networks.norms import use_batch_statistics


class CoTTA(Adapter):
    r"""Learn from a teacher that averages weights and augmented predictions, and restore random weights of training.

    $$
    \min_\theta \; -\frac1B \sum_{n, c} q_{nc} \log \mathrm{softmax}_c\, f(x_n; \theta), \qquad
    q_n = \begin{cases} \mathrm{softmax}\, f(x_n; \theta') & \text{if } \bar c \ge p \\
    \frac1N \sum_{i=1}^{N} \mathrm{softmax}\, f(\zeta_i(x_n); \theta') & \text{otherwise} \end{cases}
    $$

    $\bar c$ is the mean confidence of the trained network in the batch and $p$ the `threshold`; $\zeta_i$ are `copies`
    random augmentations of the batch. After a step of Adam the teacher follows,
    $\theta' \leftarrow m\, \theta' + (1 - m)\, \theta$ with $m$ = `momentum`, and each weight of $\theta$ goes back to
    its trained value with probability `restore`. All weights learn, and $q_n$ from before the step is the prediction.
    Batch norm normalizes by the batch.

    Reference:
        Wang, Fink, Van Gool and Dai, "Continual Test-Time Domain Adaptation", CVPR 2022.

    Departures from the authors' code, that for CIFAR-10:

    - Probabilities of augmentations are averaged, as in the paper; theirs averages their logits.
    - Every weight learns and may be restored; theirs are those called `weight` and `bias`.
    - Augmentations are torchvision's of images in [0, 1] at the size of the data, in the order of theirs; the jitters
      of color come in a random order.
    - Dropout is off; theirs is on. A batch has 32 inputs unless the stream says otherwise; theirs 200.
    - A single input is normalized together with the batch before it, if there was one of several inputs.
    """

    card = AdapterCard(
        needs=("images",),
        paper="Wang et al., CVPR 2022",
        link="https://arxiv.org/abs/2203.13591",
        tags=("test-time", "distillation", "augmentation", "averaging"),
        # Student, anchor, and the teacher on 32 copies: where the anchor is sure, the teacher predicts once.
        forwards=34.0,
        backwards=1.0,
    )

    @dataclass(frozen=True)
    class Hparams(Checked):
        """Hyperparameters of CoTTA: defaults are those of the authors' commands for CIFAR-10."""

        lr: float = hparam(1e-3, choice(1e-5, 1e-4, 1e-3), help="learning rate at test time", within="[0, inf)")
        momentum: float = hparam(0.999, help="share of the teacher's weights that stays at each step", within="[0, 1]")
        restore: float = hparam(
            0.01, choice(0.001, 0.01, 0.1), help="probability that a weight goes back to its start", within="[0, 1]"
        )
        threshold: float = hparam(
            0.92, help="confidence of the trained network below which augmentations are averaged", within="[0, inf)"
        )
        copies: int = hparam(32, help="augmentations that are averaged", within="[1, inf)")

    hparams: Hparams

    def __init__(self, network: Network, hparams: Any) -> None:
        super().__init__(network.eval().requires_grad_(False), hparams)
        use_batch_statistics(network)
        self._anchor, self._teacher = copy.deepcopy(network), copy.deepcopy(network)
        self._parameters = list(network.requires_grad_(True).parameters())
        self._optimizer = Adam(self._parameters, lr=self.hparams.lr)
        self._batches = Batches()

    def predict(self, x: Tensor) -> Tensor:
        """Return the logarithms of the teacher's probabilities (B, classes), from before learning from the batch."""
        inputs = self._batches.join_single(x)
        logs = self._taught(inputs, len(x))
        self._optimizer.zero_grad()
        logits = self.network(inputs)[-len(x) :]
        (-(logs.exp() * logits.log_softmax(dim=1)).sum(dim=1).mean()).backward()
        self._optimizer.step()
        self._follow()
        return logs

    @torch.no_grad()
    def _taught(self, inputs: Tensor, n: int) -> Tensor:
        """Return the teacher's log probabilities (n, classes) of the last n inputs."""
        confidence = self._anchor(inputs)[-n:].softmax(dim=1).amax(dim=1).mean()
        if confidence >= self.hparams.threshold:
            return self._teacher(inputs)[-n:].log_softmax(dim=1)  # type: ignore[no-any-return]
        jitter = _jitter(inputs.shape[-1])
        copies = [
            self._teacher(augmented(self.network, inputs, jitter))[-n:].log_softmax(dim=1)
            for _ in range(self.hparams.copies)
        ]
        return torch.stack(copies).logsumexp(dim=0) - math.log(len(copies))

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the teacher towards the network, then restore random weights of the network."""
        kept, anchors = self.hparams.momentum, self._anchor.parameters()
        for taught, own, start in zip(self._teacher.parameters(), self._parameters, anchors, strict=True):
            taught.mul_(kept).add_(own, alpha=1 - kept)
            own.copy_(torch.where(torch.rand_like(own) < self.hparams.restore, start, own))


def _jitter(side: int) -> v2.Compose:
    """Make the authors' augmentation of images (B, C, H, W) in [0, 1] of a side; a call draws once for all images."""
    return v2.Compose(
        [
            v2.ColorJitter(brightness=0.4, contrast=0.3, saturation=0.5, hue=0.06),
            _gamma,
            v2.Pad(side // 2, padding_mode="edge"),
            v2.RandomAffine(
                15, translate=(1 / 16, 1 / 16), scale=(0.9, 1.1), interpolation=v2.InterpolationMode.BILINEAR
            ),
            v2.GaussianBlur(5, sigma=(0.001, 0.5)),
            v2.CenterCrop(side),
            v2.RandomHorizontalFlip(),
            lambda x: x + 0.005 * torch.randn_like(x),
        ]
    )


def _gamma(x: Tensor) -> Tensor:
    """Raise images to a random power, from 0.7 to 1.3."""
    return x.clamp(0, 1) ** torch.empty(()).uniform_(0.7, 1.3).item()
