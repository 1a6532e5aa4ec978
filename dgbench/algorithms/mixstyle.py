"""MixStyle: train on feature maps whose styles are mixed between examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dgbench.algorithms._stages import NOT_COMPILED, coin, restyled, style, styled_stages, through_stages
from dgbench.core.cards import AlgorithmCard, Need
from dgbench.core.errors import UserError
from dgbench.core.space import hparam
from dgbench.methods import algorithm
from dgbench.methods.algorithm import Algorithm, Batch

PARTNERS = ("random", "crossdomain")


class MixStyle(Algorithm):
    """min of CE with maps (x - m) / s * (l s + (1 - l) s') + l m + (1 - l) m', l ~ Beta(a, a), m' and s' another's.

    Zhou, Yang, Qiao and Xiang, "Domain Generalization with MixStyle", ICLR 2021. m and s are each channel's mean and
    deviation over positions, constants in the derivative. A stage's maps of all domains are mixed with probability p,
    by new l and partners each time. Stages 1 to `mixstyle_stages` after the stem (stage 0) are mixed, the stem itself
    where nothing else is left, the last never, and none whose maps have one position. The paper's three are for PACS;
    it has two for Office-Home.

    Departures from the authors' code: with "crossdomain" the partner is any example of any other domain (theirs swaps
    the halves of a batch of two domains, and needs them equal). As there, "random" is a permutation of the minibatches.
    DomainBed has no MixStyle.
    """

    card = AlgorithmCard(
        paper="Zhou et al., ICLR 2021",
        penalties=("mixstyle_p",),
        needs=("inner_maps", NOT_COMPILED, Need("domains", when={"mixstyle_partner": "crossdomain"}, least=2)),
    )

    @dataclass(frozen=True)
    class Hparams(algorithm.Hparams):
        """The authors' values."""

        mixstyle_p: float = hparam(0.5, help="probability that a stage's maps are mixed", within="[0, 1]")
        mixstyle_alpha: float = hparam(0.1, help="a of Beta(a, a); small: one style prevails", within="(0, inf)")
        mixstyle_stages: int = hparam(
            3, help="stages after the stem that are mixed", variants={"OfficeHome": (2, None)}, within="[1, inf)"
        )
        mixstyle_partner: str = hparam("random", help="whose style is mixed in", options=PARTNERS)

    hparams: Hparams

    def build(self) -> None:
        """Find the stages to mix."""
        last = len(self.network.stages) - 1
        wanted = range(min(1, max(last - 1, 0)), min(self.hparams.mixstyle_stages + 1, last))
        found = styled_stages(self.network, self.task.input_shape, "MixStyle")
        self.mixed = frozenset(i for i, _ in found if i in wanted)
        if not self.mixed:
            raise UserError("MixStyle needs a stage before the network's last whose maps have more than one position")
        if self.hparams.mixstyle_partner == "crossdomain" and self.task.num_domains < 2:
            raise UserError("MixStyle needs two training domains where mixstyle_partner is crossdomain")

    def loss(self, batches: Sequence[Batch]) -> Tensor:
        """Cross-entropy over the concatenated minibatches, mixed on their way."""
        sizes = [len(b.y) for b in batches]

        def mix(i: int, x: Tensor) -> Tensor | None:
            return self._mixed(x, sizes) if i in self.mixed and coin() < self.hparams.mixstyle_p else None

        with through_stages(self.network, mix):
            return self.joint_loss(batches)

    def _mixed(self, x: Tensor, sizes: Sequence[int]) -> Tensor:
        mean, std = style(x.detach())
        concentration = mean.new_full((len(x), 1, 1, 1), self.hparams.mixstyle_alpha)
        share = torch.distributions.Beta(concentration, concentration, validate_args=False).sample()
        if self.hparams.mixstyle_partner == "random":
            partner = torch.randperm(len(x), device=x.device)
        else:
            partner = foreign(sizes, x.device)
        new = (torch.lerp(mean[partner], mean, share), torch.lerp(std[partner], std, share))
        return restyled(x, (mean, std), new)


def foreign(sizes: Sequence[int], device: torch.device) -> Tensor:
    """For each example of the concatenated minibatches one of another domain's, each as likely; by position."""
    total = sum(sizes)
    own = torch.cat([torch.full((n,), n, device=device) for n in sizes])
    start = torch.cat([torch.full((n,), sum(sizes[:i]), device=device) for i, n in enumerate(sizes)])
    drawn = torch.minimum((torch.rand(total, device=device) * (total - own)).long(), total - own - 1)
    return drawn + own * (drawn >= start)
