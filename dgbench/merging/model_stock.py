"""Model Stock: few fine-tuned models say, by the angle between them, how far to go back to where they began."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from dgbench.core.cards import MergerCard
from dgbench.methods.average import Weights
from dgbench.methods.merger import Member, Merger, Tools


class ModelStock(Merger):
    """theta = t mean_m theta_m + (1 - t) theta_0 in each tensor, t = N c / (1 + (N - 1) c), c = cos(d_i, d_j).

    Jang, Yun and Han, "Model Stock: All we need is just a few fine-tuned models", ECCV 2024. d_m = theta_m - theta_0,
    theta_0 the weights that all began with, c the mean over all pairs of the N members. If models lie on a sphere
    around some centre, at right angles from it, theta is the point nearest to the centre on the line from theta_0 to
    their mean.

    Departures: no code is published. t lies in [0, 1]: where c < 0 the tensor is theta_0's. The merge is made once, at
    the end (the paper also describes merging in every epoch). A tensor that a member left as it was has c = 0 with the
    others. Every tensor counts, the classifier's too, of which theta_0 is whatever the runs began with; whole numbers
    are the last member's.
    """

    card = MergerCard(paper="Jang et al., ECCV 2024")

    @torch.no_grad()
    def merge(self, members: Sequence[Member], tools: Tools) -> Weights:
        """A tensor at a time, so two copies of the model in memory: the initial weights and the result.

        The sum of the cosines of all pairs is (||sum_m u_m||^2 - N) / 2, u_m of length 1.
        """
        merged: Weights = {}
        for name, initial in tools.initial().items():
            if initial.is_floating_point():
                merged[name] = _stocked(initial, [partial(member.tensor, name) for member in members])
            else:
                merged[name] = members[-1].tensor(name)
        return merged


def _stocked(initial: Tensor, members: Sequence[Callable[[], Tensor]]) -> Tensor:
    """One tensor's mean over the members, drawn towards the initial one; members are read one by one."""
    n, moved = len(members), 0.0
    mean, directions, by = (torch.zeros_like(initial) for _ in range(3))
    for member in members:
        torch.sub(member(), initial, out=by)
        mean.add_(by, alpha=1 / n)
        length = by.norm()
        directions += by.div_(torch.where(length > 0, length, 1))
        moved += length > 0
    cosine = ((directions.flatten().dot(directions.flatten()) - moved) / (n * (n - 1))).clamp(0, 1)
    return mean.mul_(n * cosine / (1 + (n - 1) * cosine)).add_(initial)
