"""ERM++: train the classifier first, then everything, and predict by the running mean of the weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dgbench.core.cards import AlgorithmCard
from dgbench.core.needs import Need
from dgbench.core.space import hparam, power
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.batch import Batch


class ERMPlusPlus(Algorithm):
    r"""Train the classifier first, then the whole network, and predict by the running mean of the weights.

    $$
    \min_\theta L(\theta), \qquad
    \bar\theta_t = \begin{cases}
    \theta_t & t < t_0 \\
    \frac{1}{t - t_0 + 2} \sum_{s = t_0 - 1}^{t} \theta_s & t \ge t_0
    \end{cases}
    $$

    $L$ is ERM's loss, at first over the classifier alone; $\theta_t$ are the weights after $t$ optimizer steps and
    $t_0$ is `sma_start`; $\bar\theta_t$ predicts. `live` is the network that learns, `network` the mean.

    This is as much of the paper's recipe as DomainBed's plain training script does. The rest is had by settings, or
    not: `schedule` and `warmup_steps` in place of the paper's schedule, which lowers the rate where the validation loss
    stands still (DomainBed has that in a separate script that its sweeps don't run); `batch_norm="live"` and `backbone`
    for its live batch norm and its stronger initial weights; validation data are never trained on.

    Reference:
        Teterwak, Saito, Tsiligkaridis, Saenko and Plummer, "ERM++: An Improved Baseline for Domain Generalization",
        WACV 2025.

    Departures from DomainBed's code:

    - No gradient with respect to the featurizer in the first phase (there it is computed and not used).
    - With live batch norm, the mean's statistics see each minibatch from `sma_start` on. There they do from the first
      step: until `sma_start` the predicting network has seen the last minibatch twice, and of those passes the last
      enters the mean, while each other is overwritten by the next step. The mean's count of batches is the live
      network's.

    As there, with `linear_steps` = n the classifier learns alone for n + 1 steps.
    """

    card = AlgorithmCard(
        paper="Teterwak et al., WACV 2025",
        link="https://arxiv.org/abs/2304.01973",
        tags=("training-recipe", "averaging"),
        followers=("network",),
        no_feedback={"weights": "predicts by the mean of those that it trains"},
        rehearsal={"linear_steps": 3, "linear_lr": 1e-3, "sma_start": 8},
        needs=(
            "own_classifier",
            "learning_classifier",
            Need("full_weights", why="averages the parameters that it trains one by one"),
        ),
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Hyperparameters of ERM++; defaults and draws are DomainBed's, where `sma_start` is a constant."""

        linear_steps: int = hparam(
            500,
            help="last step, counted from 0, in which the classifier learns alone",
            within="[0, inf)",
            begins="step",
        )
        linear_lr: float = hparam(
            5e-5, power(10, -5, -3.5), help="learning rate of the classifier alone", within="[0, inf)"
        )
        sma_start: int = hparam(
            600,
            help="first step, counted from 1, whose weights are averaged, with those before",
            within="[1, inf)",
            begins="step",
        )

    hparams: Hparams

    def build(self) -> None:
        """Copy the network: the copy, `live`, learns, and `network` becomes the mean.

        So everything else that predicts by `network` (adapters, saving) takes the mean.
        """
        self.live = copy.deepcopy(self.network)
        self.network.requires_grad_(False)

    def build_optimizers(self) -> None:
        """Create one optimizer for the classifier alone and one for all that learns."""
        # As a group with a rate of its own, which `lr_head` leaves alone.
        alone: list[dict[str, Any]] = [{"params": self.live.classifier.parameters(), "lr": self.hparams.linear_lr}]
        self.linear_optimizer = self.new_optimizer(alone)
        self.optimizer = self.new_optimizer(self.live.parameters())

    def update(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """Take one step of the live network, then one of the mean."""
        if self.step == 0:
            # Take over changes made to `network` since `build` copied it: nothing has been trained yet.
            self.live.load_state_dict(self.network.state_dict())
        x, y = torch.cat([b.x for b in batches]), torch.cat([b.y for b in batches])
        everything = self.step > self.hparams.linear_steps
        with torch.set_grad_enabled(everything):
            features = self.live.dropout(self.live.features(x))
        loss = self.criterion(self.live.classifier(features), y)
        optimizer = self.optimizer if everything else self.linear_optimizer
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        self._average(x)
        return {"loss": loss.detach()}

    @torch.no_grad()
    def _average(self, x: Tensor) -> None:
        """Move the mean by (live - mean) / (n + 1) after n means; before the start set it to the live network."""
        averaged = self.step + 2 - self.hparams.sma_start
        pairs = list(zip(self.network.state_dict().values(), self.live.state_dict().values(), strict=True))
        floats = [(mean, live) for mean, live in pairs if mean.is_floating_point()]
        torch._foreach_lerp_([m for m, _ in floats], [live for _, live in floats], 1 / (max(averaged, 0) + 1))
        for mean, live in pairs:
            if not mean.is_floating_point():
                mean.copy_(live)
        if averaged > 0 and self.setting.batch_norm == "live":
            self.network(x)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, classes) of the mean; in training mode, of the network that learns."""
        logits: Tensor = (self.live if self.training else self.network)(x)
        return logits
