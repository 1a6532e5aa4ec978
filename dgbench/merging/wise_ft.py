"""WiSE-FT: the models on the line between the weights a run started from and those it ended with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dgbench.core.cards import MergerCard
from dgbench.merging._grid import AlphaGrid
from dgbench.methods.merger import Member, Merged, Merger, Tools


class WiSEFT(Merger):
    r"""Mix the weights a run started from with its trained weights, in a share chosen by the selector.

    $$
    \theta = (1 - \alpha)\, \theta_0 + \alpha\, \theta_1
    $$

    $\theta_0$ are the weights that the run started from, $\theta_1$ those at its best training-domain validation
    accuracy; each run is merged by itself. The values of $\alpha$ are a grid of `points` from 0 to 1, and are
    candidates as the steps of a run are. The `recommended` one comes last, since a selector that looks at the last step
    alone takes that. Of equally good ones the smallest wins, the recommended after the others.

    $\theta_0$ includes the initial classifier. The paper's is a zero-shot one, made from the class names: a CLIP starts
    so with `classifier_init` `zero_shot`. By default runs start with a random one, so that $\theta_0$ predicts nothing;
    with `linear_probe` both ends are models worth mixing, too.

    Reference:
        Wortsman, Ilharco, Kim, Li, Kornblith, Roelofs, Gontijo-Lopes, Hajishirzi, Farhadi, Namkoong and Schmidt,
        "Robust Fine-Tuning of Zero-Shot Models", CVPR 2022.

    Departures from the authors' code: integer tensors are those of $\theta_1$. With live batch norm the statistics of
    each candidate are measured afresh on training minibatches, at $\alpha = 1$ too. Nothing is weighed by Fisher
    information.
    """

    card = MergerCard(
        paper="Wortsman et al., CVPR 2022",
        link="https://arxiv.org/abs/2109.01903",
        tags=("averaging", "pretraining"),
        shared_init=False,
        min_members=1,
        each=True,
    )

    @dataclass(frozen=True)
    class Hparams(AlphaGrid):
        """Hyperparameters of WiSE-FT: the paper's grid and its recommendation."""

    hparams: Hparams

    @property
    def choices(self) -> int:
        """Return the number of candidates, one for each alpha."""
        return len(self.hparams.alphas)

    @torch.no_grad()
    def candidates(self, members: Sequence[Member], tools: Tools) -> Iterator[Merged]:
        """Yield a model for each alpha, exact at both ends; three copies of the model are in memory."""
        (member,) = members
        initial, tuned = tools.initial(), member.load()

        def between(name: str, alpha: float) -> Tensor:
            one = tuned[name]
            return torch.lerp(initial[name], one, alpha) if one.is_floating_point() else one

        for alpha in self.hparams.alphas:
            yield Merged({name: between(name, alpha) for name in tuned}, members, {"alpha": alpha})
