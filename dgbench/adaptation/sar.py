"""SAR: sharpness-aware entropy minimisation on reliable test inputs, with a way back when predictions collapse."""

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
from dgbench.methods.ascent import displaced, gradient, of_length
from dgbench.networks.network import Network
from dgbench.networks.norms import norms, use_batch_statistics


class SAR(Adapter):
    """min over norms' scales and shifts a of mean_n H(f(x_n; a + eps)), eps = rho g / ||g||, over n with H < E0.

    Niu, Wu, Zhang, Wen, Chen, Zhao and Tan, "Towards Stable Test-Time Adaptation in Dynamic Wild World", ICLR 2023. g
    is the gradient of the mean over n with H(f(x_n; a)) < E0, E0 = margin * ln(classes); of these the second mean
    leaves out those that the climb has made unreliable. The running mean of the second mean, m <- 0.9 m + 0.1 H, below
    `recovery` says that all is predicted alike: then all is as it was before the first batch. Norms of every kind learn
    (theirs: batch, layer and group norm), but for the top stages (`top`); batch norm normalises by the test batch. A
    batch is predicted before it is learned from.

    Departures from the authors' code, which has these quirks: `recovery` is the literal 0.2 there, whatever is passed;
    after a recovery the running mean stays below, so that the next batches recover again, and the momentum of the
    optimizer lives on; a batch without reliable inputs has gradient 0, and the momentum moves the weights; E0 is that
    of 1,000 classes. Here `recovery` is a hyperparameter, a recovery forgets the running mean and the momentum, a
    batch without reliable inputs changes nothing, and E0 follows the number of classes. The top is the last quarter of
    the network's stages and what comes after (a ResNet's layer4, a ViT-B's blocks 9 to 11 and its last norm), not names
    that only those two have. Dropout is off (theirs is on). 32 inputs a batch (theirs: 64; their rate of ResNets is the
    same for both). A last batch of a single input is normalised together with the batch before it.
    """

    card = AdapterCard(needs=("norm", "stage_modules"), paper="Niu et al., ICLR 2023", forwards=2.0, backwards=2.0)

    @dataclass(frozen=True)
    class Hparams(Checked):
        """Defaults are the authors', of ResNets; a ViT has 0.0005. Only the learning rate is drawn, around it."""

        lr: float = hparam(2.5e-4, choice(2.5e-5, 2.5e-4, 2.5e-3), help="learning rate at test time", within="[0, inf)")
        rho: float = hparam(0.05, help="length of the step uphill", within="[0, inf)")
        margin: float = hparam(
            0.4, help="E0 by the entropy of a uniform prediction; above 1 all inputs are reliable", within="[0, inf)"
        )
        recovery: float = hparam(0.2, help="mean entropy below which all is as before; 0 for never", within="[0, inf)")
        top: float = hparam(
            0.25, help="share of the network's stages, from the top, that stays as it is", within="[0, 1)"
        )

    hparams: Hparams

    def __init__(self, network: Network, hparams: Any) -> None:
        super().__init__(network.eval().requires_grad_(False), hparams)
        use_batch_statistics(network)
        self._parameters = scales_and_shifts(_lower_norms(network, self.hparams.top))
        if not self._parameters:
            raise UserError(
                "SAR learns the scales and shifts of normalisation layers, and below its top this network has none: "
                "train another backbone, such as resnet18, or lower SAR's top"
            )
        self._initial = [parameter.detach().clone() for parameter in self._parameters]
        self._batches = Batches()
        self._begin()

    def _begin(self) -> None:
        self._optimizer = SGD(self._parameters, lr=self.hparams.lr, momentum=0.9)
        self._mean: float | None = None

    def predict(self, x: Tensor) -> Tensor:
        """Logits (B, classes), before learning from the batch."""
        inputs = self._batches.joined(x)
        logits = self.network(inputs)[-len(x) :]
        entropy = entropies(logits)
        limit = self.hparams.margin * math.log(logits.shape[1])
        reliable = entropy < limit
        if reliable.any():
            parameters, uphill = gradient(entropy[reliable].mean(), self._parameters)
            self._optimizer.zero_grad()
            with displaced(self.network, parameters, of_length(uphill, self.hparams.rho)):
                entropy = entropies(self.network(inputs)[-len(x) :])
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
        """Note the batch's entropy, and begin anew once the running mean of it is too low."""
        self._mean = entropy if self._mean is None else 0.9 * self._mean + 0.1 * entropy
        if self._mean < self.hparams.recovery:
            torch._foreach_copy_(self._parameters, self._initial)
            self._begin()


def _lower_norms(network: Network, top: float) -> list[nn.Module]:
    """The featurizer's norms up to the last stage that is not of the top; one stage at least is not."""
    parts, stages = list(network.featurizer.modules()), network.stages
    if top and stages:
        left = max(1, len(stages) - max(1, int(top * len(stages))))
        last = list(stages[left - 1].modules())[-1]
        parts = parts[: 1 + next(i for i, part in enumerate(parts) if part is last)]
    lower = {id(part) for part in parts}
    return [norm for norm in norms(network.featurizer) if id(norm) in lower]
