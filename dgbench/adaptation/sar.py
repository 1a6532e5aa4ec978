"""SAR: sharpness-aware entropy minimization on reliable test inputs, with a way back when predictions collapse."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD

from dgbench.adaptation._batches import Batches, entropies, scales_and_shifts
from dgbench.core.cards import AdapterCard
from dgbench.core.errors import UserError
from dgbench.core.space import Checked, choice, hparam
from dgbench.methods.adapter import Adapter
from dgbench.methods.ascent import displaced_parameters, gradient, scale_to_length
from dgbench.networks.network import Network
from dgbench.networks.norms import norms, use_batch_statistics


class SAR(Adapter):
    r"""Minimize the entropy of reliable predictions by SAM on norms, and recover if they collapse.

    $$
    \min_a \; \mathop{\mathrm{mean}}_{n:\, H < E_0} H\big(f(x_n; a + \epsilon)\big), \qquad
    \epsilon = \frac{\rho\, g}{\|g\|_2 + 10^{-12}}, \quad
    g = \nabla_a \mathop{\mathrm{mean}}_{n:\, H < E_0} H\big(f(x_n; a)\big)
    $$

    $a$ are the scales and shifts of the norms, $H$ is the entropy of a prediction, and the inputs with $H < E_0$ are
    reliable; $E_0$ is `margin` × $\ln C$ for $C$ classes. Of these, the mean at $a + \epsilon$ leaves out the inputs
    that the climb has made unreliable. A batch is predicted before it is learned from.

    A running mean of the mean entropy at $a + \epsilon$, $m \leftarrow 0.9\, m + 0.1\, H$, shows a collapse: if it is
    below `recovery`, all inputs are predicted alike, and all is reset to the state before the first batch.

    Norms of every kind learn (in the authors' code: batch, layer and group norm), but for those of the top stages
    (`top`). Batch norm normalizes by the test batch.

    Reference:
        Niu, Wu, Zhang, Wen, Chen, Zhao and Tan, "Towards Stable Test-Time Adaptation in Dynamic Wild World", ICLR 2023.

    Departures from the authors' code:

    - `recovery` is a hyperparameter; in theirs it is the literal 0.2, whatever is passed.
    - A recovery forgets the running mean and the optimizer's momentum. In theirs the running mean stays low, so that
      the next batches recover again, and the momentum lives on.
    - A batch without reliable inputs changes nothing. In theirs its gradient is 0, and the momentum moves the weights.
    - $E_0$ follows the number of classes; theirs is that of 1,000 classes.
    - The top is the last quarter of the network's stages and all that follows them (a ResNet's layer4, the blocks 9 to
      11 and the last norm of a ViT-B), not the names that only these two have.
    - Dropout is off; theirs is on. A batch has 32 inputs; theirs 64, with the same rate for ResNets.
    - A last batch of a single input is normalized together with the batch before it.
    """

    card = AdapterCard(
        needs=("norm", "stage_modules"),
        paper="Niu et al., ICLR 2023",
        link="https://arxiv.org/abs/2302.12400",
        tags=("test-time", "flat-minima"),
        forwards=2.0,
        backwards=2.0,
    )

    @dataclass(frozen=True)
    class Hparams(Checked):
        """Hyperparameters of SAR; defaults are the authors' for ResNets.

        For a ViT their learning rate is 0.0005. Only the learning rate is drawn, around its default.
        """

        lr: float = hparam(2.5e-4, choice(2.5e-5, 2.5e-4, 2.5e-3), help="learning rate at test time", within="[0, inf)")
        rho: float = hparam(0.05, help="length of the step uphill", within="[0, inf)")
        margin: float = hparam(
            0.4,
            help="E0 relative to the entropy of a uniform prediction; above 1 all inputs are reliable",
            within="[0, inf)",
        )
        recovery: float = hparam(
            0.2, help="mean entropy below which everything is reset; 0 for never", within="[0, inf)"
        )
        top: float = hparam(
            0.25, help="share of the network's stages, from the top, whose norms do not learn", within="[0, 1)"
        )

    hparams: Hparams

    def __init__(self, network: Network, hparams: Any) -> None:
        super().__init__(network.eval().requires_grad_(False), hparams)
        use_batch_statistics(network)
        self._parameters = scales_and_shifts(_lower_norms(network, self.hparams.top))
        if not self._parameters:
            raise UserError(
                "SAR learns the scales and shifts of normalization layers, and below its top this network has none: "
                "train another backbone, such as resnet18, or lower SAR's top"
            )
        self._initial = [parameter.detach().clone() for parameter in self._parameters]
        self._batches = Batches()
        self._begin()

    def _begin(self) -> None:
        """Start with a fresh optimizer and no running mean, as before the first batch and after a recovery."""
        self._optimizer = SGD(self._parameters, lr=self.hparams.lr, momentum=0.9)
        self._mean: float | None = None

    def predict(self, x: Tensor) -> Tensor:
        """Return logits (B, classes) from before learning from the batch."""
        inputs = self._batches.join_single(x)
        logits = self.network(inputs)[-len(x) :]
        entropy = entropies(logits)
        limit = self.hparams.margin * math.log(logits.shape[1])
        reliable = entropy < limit
        if reliable.any():
            parameters, uphill = gradient(entropy[reliable].mean(), self._parameters)
            self._optimizer.zero_grad()
            with displaced_parameters(self.network, parameters, scale_to_length(uphill, self.hparams.rho)):
                entropy = entropies(self.network(inputs)[-len(x) :])
                # Reliable before and after the climb; the logits at the displaced weights serve the gradient only.
                reliable &= entropy < limit
                if reliable.any():
                    loss = entropy[reliable].mean()
                    loss.backward()  # type: ignore[no-untyped-call]
            if reliable.any():
                self._optimizer.step()
                self._watch(loss.item())
        return logits.detach()  # type: ignore[no-any-return]

    @torch.no_grad()
    def _watch(self, entropy: float) -> None:
        """Add the batch's entropy to the running mean; reset everything if this has become too low."""
        self._mean = entropy if self._mean is None else 0.9 * self._mean + 0.1 * entropy
        if self._mean < self.hparams.recovery:
            torch._foreach_copy_(self._parameters, self._initial)
            self._begin()


def _lower_norms(network: Network, top: float) -> list[nn.Module]:
    """Return the featurizer's norms up to the last stage below the top; at least one stage is below it."""
    parts, stages = list(network.featurizer.modules()), network.stages
    if top and stages:
        # The number of stages below the top.
        left = max(1, len(stages) - max(1, int(top * len(stages))))
        last = list(stages[left - 1].modules())[-1]
        # modules() lists in the order of definition: whatever comes after the last lower stage belongs to the top.
        parts = parts[: 1 + next(i for i, part in enumerate(parts) if part is last)]
    lower = {id(part) for part in parts}
    return [norm for norm in norms(network.featurizer) if id(norm) in lower]
