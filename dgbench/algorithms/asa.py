"""Adversarial style augmentation (ASA): learn the changes of style of the feature maps that make the task hard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dgbench.algorithms._stages import (
    NOT_COMPILED,
    NOT_SPLIT,
    batch_deviation,
    draw_uniform,
    jitter_style,
    replace_stage_outputs,
    style,
    styled_stages,
)
from dgbench.core.cards import AlgorithmCard
from dgbench.core.errors import UserError
from dgbench.core.space import hparam
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.batch import Batch


class ASA(Algorithm):
    r"""Train on feature maps whose styles are jittered by noise of learned, adversarial size.

    $$
    \min_\theta \; \max_S \; \mathrm{CE} \quad \text{with maps} \quad
    \frac{x - m}{s}\, (s + n_2 S_s) + m + n_1 S_m, \qquad n_1, n_2 \sim \mathcal{N}(0, 1)
    $$

    $m$ and $s$ are the mean and deviation of each channel over its positions; $n_1$ and $n_2$ are drawn for each
    example and channel. The maps of a stage, of all domains, are changed with the learned $S$ (a value for each stage,
    channel and statistic), or as DSU does, with the deviation over the batch in place of $S$, or not at all, each as
    likely. A step is `asa_style_steps` updates of $S$, whose gradient is multiplied by `-adv_weight`, then one of
    $\theta$, each on the same minibatches with new draws.

    Reference:
        Zhang, Deng, Li, Jia and Zhang, "Adversarial Style Augmentation for Domain Generalization", arXiv 2023.

    Departures from the authors' code:

    - $S$ begins as the deviations over the first minibatches at every stage (there at a stage's first use).
    - $S$ is never decayed.
    - Stages are chosen as for DSU.

    As there, $S$ has the optimizer and learning rate of $\theta$, and live batch norm remembers all four passes.

    DomainBed: has no ASA.
    """

    card = AlgorithmCard(
        paper="Zhang et al., arXiv 2023",
        link="https://arxiv.org/abs/2301.12643",
        tags=("augmentation", "adversarial"),
        forwards=4.0,
        backwards=4.0,
        base=None,
        needs=("feature_maps", NOT_COMPILED, NOT_SPLIT),
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Hyperparameters of ASA; defaults are the values of the authors' script."""

        adv_weight: float = hparam(
            10.0, help="factor of the styles' gradient; for Adam, hardly more than its sign", within="[0, inf)"
        )
        asa_style_steps: int = hparam(3, help="updates of the styles before each of the network", within="[1, inf)")

    hparams: Hparams

    def build(self) -> None:
        """Create the learned spreads: of means and of deviations, for each channel of each stage."""
        stages = styled_stages(self.network, self.task.input_shape, "ASA")
        self.place = {stage: k for k, (stage, _) in enumerate(stages)}
        self.mean_spreads = nn.ParameterList(torch.zeros(1, channels, 1, 1) for _, channels in stages)
        self.std_spreads = nn.ParameterList(torch.zeros(1, channels, 1, 1) for _, channels in stages)
        if self.hparams.batch_size * self.task.num_domains < 2:
            raise UserError("ASA needs two examples in a step: it takes deviations between them")

    def build_optimizers(self) -> None:
        """Create one optimizer for the network and one for the spreads."""
        self.optimizer = self.new_optimizer(self.network.parameters())
        self.style_optimizer = self.new_optimizer([*self.mean_spreads, *self.std_spreads], weight_decay=0.0)

    def update(self, batches: Sequence[Batch]) -> Mapping[str, Tensor]:
        """Take the steps of the spreads uphill, then one step of the network downhill."""
        for k in range(self.hparams.asa_style_steps):
            hard = self._styled_loss(batches, begin=self.step == 0 and k == 0)
            self.style_optimizer.zero_grad(set_to_none=True)
            # This leaves gradients in the network's parameters too; `descend` clears them before its own pass.
            (-self.hparams.adv_weight * hard).backward()  # type: ignore[no-untyped-call]
            self.style_optimizer.step()
        loss = self._styled_loss(batches)
        self.descend(loss)
        return {"loss": loss.detach(), "style_loss": hard.detach()}

    def _styled_loss(self, batches: Sequence[Batch], *, begin: bool = False) -> Tensor:
        """Return the mean loss over the concatenated minibatches, with changed styles.

        With `begin` the spreads are first set to the deviations over the batch.
        """

        def change(i: int, x: Tensor) -> Tensor | None:
            if i not in self.place:
                return None
            mean, std = style(x)
            learned = self.mean_spreads[self.place[i]], self.std_spreads[self.place[i]]
            if begin:
                with torch.no_grad():
                    learned[0].copy_(batch_deviation(mean))
                    learned[1].copy_(batch_deviation(std))
            # A third each: the maps stay, the learned spreads, DSU's spreads.
            drawn = draw_uniform()
            if drawn < 1 / 3:
                return None
            deviations = learned if drawn < 2 / 3 else (batch_deviation(mean), batch_deviation(std))
            return jitter_style(x, (mean, std), deviations)

        with replace_stage_outputs(self.network, change):
            return self.joint_loss(batches)
