"""GAQAT: quantization-aware training towards flat minima that freezes scales whose task gradient keeps its sign."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dgbench.algorithms.qtdog import QTDoG
from dgbench.core.cards import AlgorithmCard
from dgbench.core.needs import Need
from dgbench.core.space import hparam
from dgbench.methods.ascent import backward_at, global_norm, gradient
from dgbench.methods.batch import Batch


class GAQAT(QTDoG):
    r"""Train quantized weights by SAGM; keep the task's gradient from scales where it hardly changes sign.

    $$
    \min_{\theta, s} \; \tfrac{1}{2} \big( L(\theta, s) + L\big((\theta, s) + \epsilon\big) \big), \qquad
    \epsilon = \Big( \frac{\rho}{\|g\|_2 + 10^{-12}} - \alpha \Big)\, g, \qquad g = \nabla L(\theta, s)
    $$

    $L$ is ERM's loss with convolutions quantized as in QT-DoG, $s$ are the quantizers' scales, and loss and $\epsilon$
    are SAGM's. The disorder of a layer is the share of the last $K$ steps, $K$ being `gaqat_interval`, in which the
    entries of $g$ for its scales changed sign, averaged over its channels. Every $K$ steps each layer whose disorder is
    below `gaqat_threshold` is frozen for the next $K$: its scales then follow the gradient of the second part alone.

    Reference:
        Jiang, Meng, Tang, Yu, Li, Wang and Zhu, "GAQAT: Gradient-Adaptive Quantization-Aware Training for Domain
        Generalization", arXiv 2024.

    Departures from the paper:

    - No code is published, and of the paper its abstract and its reviews were read. They give the two gradients, that
      disorder counts changes of sign, and that the layers below the threshold are frozen every $K$ steps.
    - All else is this project's: $K$, the threshold, the count that makes up disorder, freezing whole layers, ordinary
      steps until the first $K$ are over, SAGM's steps before the quantization, and scales that $\epsilon$ displaces as
      it does other parameters.

    DomainBed: has no GAQAT.
    """

    card = AlgorithmCard(
        paper="Jiang et al., arXiv 2024",
        link="https://arxiv.org/abs/2412.05551",
        tags=("quantization", "flat-minima"),
        forwards=2.0,
        backwards=2.0,
        base=None,
        rehearsal={"q_steps": 3, "gaqat_interval": 4, "gaqat_threshold": 0.5},
        needs=(
            "convolutions",
            "learning_features",
            Need("full_weights", why="saves weights of few bits, which their sums with changes are not"),
        ),
        experimental="interval, threshold and exact measure of disorder, when quantization begins, what eps displaces",
    )

    @dataclass(frozen=True)
    class Hparams(QTDoG.Hparams):
        """Hyperparameters of GAQAT: the paper's four bits, SAGM's `rho` and `alpha`; the rest is this project's."""

        bits: int = hparam(4, help="bits of a weight", within="[2, 16]")
        rho: float = hparam(0.05, help="length of the step uphill", within="[0, inf)")
        alpha: float = hparam(0.001, help="step back down, as a multiple of the gradient", within="[0, inf)")
        gaqat_interval: int = hparam(
            100, help="K, steps between decisions on which scales to freeze", within="[1, inf)"
        )
        gaqat_threshold: float = hparam(0.2, help="disorder below which a layer's scales are frozen", within="[0, inf)")

    hparams: Hparams

    def build(self) -> None:
        """Give every convolution that learns a quantizer, and a memory of the signs of its scales' gradients."""
        super().build()
        self.memory = [(quantizer.scale, _Disorder(quantizer.scale)) for _, quantizer in self.quantized]
        self.disorders = nn.ModuleList(disorder for _, disorder in self.memory)

    def update(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """Take one step, with two forward and two backward passes over the same minibatches."""
        since = self.step - self.hparams.q_steps
        self.before_step()
        loss = self.joint_loss(batches)
        parameters, task = gradient(loss, self.parameters())
        factor = self.hparams.rho / (global_norm(task) + 1e-12) - self.hparams.alpha
        uphill, smooth = backward_at(self, batches, parameters, list(torch._foreach_mul(task, factor)))
        if since >= 0:
            place = {id(parameter): i for i, parameter in enumerate(parameters)}
            for scale, disorder in self.memory:
                i = place[id(scale)]
                task[i] = disorder(task[i])
                if (since + 1) % self.hparams.gaqat_interval == 0:
                    disorder.decide(self.hparams.gaqat_interval, self.hparams.gaqat_threshold)
        # In place: `smooth` is what lies in `.grad`, and becomes the mean of both gradients.
        torch._foreach_lerp_(smooth, task, 0.5)
        self.optimizer.step()
        frozen = [disorder.frozen for _, disorder in self.memory]
        return {
            "loss": loss.detach(),
            "sharpness": uphill - loss.detach(),
            "frozen": torch.stack(frozen).to(loss.dtype).mean(),
        }


class _Disorder(nn.Module):
    """A memory of how often the gradient of a layer's scales (C,) changed its sign, and whether the layer is frozen."""

    sign: Tensor
    changes: Tensor
    frozen: Tensor

    def __init__(self, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("sign", torch.zeros_like(scale, requires_grad=False))
        self.register_buffer("changes", torch.zeros_like(scale, requires_grad=False))
        self.register_buffer("frozen", torch.zeros((), dtype=torch.bool, device=scale.device))

    def forward(self, task: Tensor) -> Tensor:
        """Remember the signs of `task` (C,); return it, or 0 if the layer is frozen."""
        sign = task.sign()
        self.changes += sign * self.sign < 0
        self.sign.copy_(sign)
        return torch.where(self.frozen, 0, task)

    def decide(self, steps: int, threshold: float) -> None:
        """Freeze or thaw the layer for the next steps, by the changes of sign in the last `steps`."""
        self.frozen.copy_(self.changes.mean() / steps < threshold)
        self.changes.zero_()
