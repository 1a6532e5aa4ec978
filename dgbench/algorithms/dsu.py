"""DSU: train on feature maps whose styles are uncertain, by noise as large as their spread over the batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

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


class DSU(Algorithm):
    r"""Train on feature maps whose styles are jittered as much as they vary over the batch.

    $$
    \min_\theta \mathrm{CE} \quad \text{with maps} \quad \frac{x - m}{s}\, \big(s + n_2\, S(s)\big) + m + n_1\, S(m),
    \qquad n_1, n_2 \sim \mathcal{N}(0, 1)
    $$

    $m$ and $s$ are the mean and deviation of each channel over its positions, and $S$ is the deviation over the batch,
    times `dsu_factor`. The maps of a stage, of all domains, are changed with probability `dsu_p`; $n_1$ and $n_2$ are
    drawn for each example and channel. The derivative goes through $m$, $s$ and $S$.

    Reference:
        Li, Dai, Ge, Liu, Shan and Duan, "Uncertainty Modeling for Out-of-Distribution Generalization", ICLR 2022.

    Departures from the authors' code: the stages are the stem, as it leaves its activation, and each that follows (five
    in a ResNet; theirs has six places: before the stem's batch norm, after its pooling, after each of the four layers);
    stages whose maps have one position are left out.

    DomainBed: has no DSU.
    """

    card = AlgorithmCard(
        paper="Li et al., ICLR 2022",
        link="https://arxiv.org/abs/2202.03958",
        tags=("augmentation",),
        penalties=("dsu_p",),
        draws=True,
        needs=("feature_maps", NOT_COMPILED, NOT_SPLIT),
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Hyperparameters of DSU; defaults are the authors' values."""

        dsu_p: float = hparam(0.5, help="probability that a stage's maps are changed", within="[0, 1]")
        dsu_factor: float = hparam(1.0, help="factor of the noise", within="[0, inf)")

    hparams: Hparams

    def build(self) -> None:
        """Find the stages to change."""
        self.changed = frozenset(i for i, _ in styled_stages(self.network, self.task.input_shape, "DSU"))
        if self.hparams.batch_size * self.task.num_domains < 2:
            raise UserError("DSU needs two examples in a step: it takes deviations between them")

    def loss(self, batches: Sequence[Batch]) -> Tensor:
        """Return the mean loss over the concatenated minibatches, with changed styles."""

        def change(i: int, x: Tensor) -> Tensor | None:
            if i not in self.changed or draw_uniform() >= self.hparams.dsu_p:
                return None
            mean, std = style(x)
            factor = self.hparams.dsu_factor
            return jitter_style(x, (mean, std), (factor * batch_deviation(mean), factor * batch_deviation(std)))

        with replace_stage_outputs(self.network, change):
            return self.joint_loss(batches)
