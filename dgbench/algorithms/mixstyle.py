"""MixStyle: train on feature maps whose styles are mixed between examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dgbench.algorithms._stages import (
    NOT_COMPILED,
    NOT_SPLIT,
    draw_uniform,
    replace_stage_outputs,
    replace_style,
    style,
    styled_stages,
)
from dgbench.core.cards import AlgorithmCard
from dgbench.core.errors import UserError
from dgbench.core.needs import Need
from dgbench.core.space import hparam
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.batch import Batch

PARTNERS = ("random", "crossdomain")


class MixStyle(Algorithm):
    r"""Mix the styles of feature maps, their means and deviations by channel, between examples.

    $$
    \mathrm{mix}(x) = \big(\ell s + (1 - \ell) s'\big) \frac{x - m}{s} + \ell m + (1 - \ell) m',
    \qquad \ell \sim \mathrm{Beta}(a, a)
    $$

    The loss is the cross-entropy with mixed maps. $m$ and $s$ are mean and standard deviation of each channel over the
    positions, held constant in the derivative; $m'$ and $s'$ are those of a partner, another example. $a$ is
    `mixstyle_alpha`. A stage's maps are mixed with probability `mixstyle_p`, for all domains at once, with new $\ell$
    and partners each time.

    Stages 1 to `mixstyle_stages` after the stem (stage 0) are mixed; the stem only where nothing else is left, the last
    stage never, and no stage whose maps have a single position. The paper mixes three for PACS, two for Office-Home.

    Reference:
        Zhou, Yang, Qiao and Xiang, "Domain Generalization with MixStyle", ICLR 2021.

    Departures from the authors' code: with `mixstyle_partner="crossdomain"` the partner is any example of any other
    domain; theirs swaps the halves of a batch of two domains, which must be equally large. With `random`, partners are
    a permutation of all minibatches' examples, as in their code.

    DomainBed: has no MixStyle.
    """

    card = AlgorithmCard(
        paper="Zhou et al., ICLR 2021",
        link="https://arxiv.org/abs/2104.02008",
        tags=("augmentation",),
        penalties=("mixstyle_p",),
        draws=True,
        needs=(
            "inner_maps",
            NOT_COMPILED,
            NOT_SPLIT,
            Need("domains", when={"mixstyle_partner": "crossdomain"}, least=2),
        ),
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """Hyperparameters of MixStyle; the values are the authors'."""

        mixstyle_p: float = hparam(0.5, help="probability that a stage's maps are mixed", within="[0, 1]")
        mixstyle_alpha: float = hparam(
            0.1, help="a of Beta(a, a), which shares are drawn from; small: one style prevails", within="(0, inf)"
        )
        mixstyle_stages: int = hparam(
            3, help="stages after the stem that are mixed", variants={"OfficeHome": (2, None)}, within="[1, inf)"
        )
        mixstyle_partner: str = hparam(
            "random",
            help="partners whose styles are mixed in: any examples, or those of other domains",
            options=PARTNERS,
        )

    hparams: Hparams

    def build(self) -> None:
        """Find the stages to mix; raise UserError if there are none."""
        last = len(self.network.stages) - 1
        wanted = range(min(1, max(last - 1, 0)), min(self.hparams.mixstyle_stages + 1, last))
        found = styled_stages(self.network, self.task.input_shape, "MixStyle")
        self.mixed = frozenset(i for i, _ in found if i in wanted)
        if not self.mixed:
            raise UserError("MixStyle needs a stage before the network's last whose maps have more than one position")
        if self.hparams.mixstyle_partner == "crossdomain" and self.task.num_domains < 2:
            raise UserError("MixStyle needs two training domains where mixstyle_partner is crossdomain")

    def loss(self, batches: Sequence[Batch]) -> Tensor:
        """Return the cross-entropy over the concatenated minibatches, whose maps are mixed on their way."""
        sizes = [len(b.y) for b in batches]

        def mix(i: int, x: Tensor) -> Tensor | None:
            return self._mixed(x, sizes) if i in self.mixed and draw_uniform() < self.hparams.mixstyle_p else None

        with replace_stage_outputs(self.network, mix):
            return self.joint_loss(batches)

    def _mixed(self, x: Tensor, sizes: Sequence[int]) -> Tensor:
        # Detached, so that styles are constants in the derivative, as in the paper.
        mean, std = style(x.detach())
        concentration = mean.new_full((len(x), 1, 1, 1), self.hparams.mixstyle_alpha)
        share = torch.distributions.Beta(concentration, concentration, validate_args=False).sample()
        if self.hparams.mixstyle_partner == "random":
            partner = torch.randperm(len(x), device=x.device)
        else:
            partner = foreign(sizes, x.device)
        new = (torch.lerp(mean[partner], mean, share), torch.lerp(std[partner], std, share))
        return replace_style(x, (mean, std), new)


def foreign(sizes: Sequence[int], device: torch.device) -> Tensor:
    """Draw a partner from another domain for each example of the concatenated minibatches.

    Args:
        sizes: Number of examples of each domain, in the order of concatenation.
        device: Device of the result, which nothing waits for.

    Returns:
        Positions (N,), int64; all examples of the other domains are equally likely.
    """
    total = sum(sizes)
    own = torch.cat([torch.full((n,), n, device=device) for n in sizes])
    start = torch.cat([torch.full((n,), sum(sizes[:i]), device=device) for i, n in enumerate(sizes)])
    # Draw among the others as if the own domain were cut out, then step over it. The minimum is for a product that
    # rounds up.
    drawn = torch.minimum((torch.rand(total, device=device) * (total - own)).long(), total - own - 1)
    return drawn + own * (drawn >= start)
