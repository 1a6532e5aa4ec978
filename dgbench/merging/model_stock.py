"""Model Stock: few fine-tuned models say, by the angle between them, how far to go back to where they began."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dgbench.average import RunningMean, Weights
from dgbench.cards import MergerCard
from dgbench.merger import Member, Merger, Tools


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
        """Four copies of the model in memory: the sum of the cosines of all pairs is (||sum_m u_m||^2 - N) / 2."""
        initial, mean = tools.initial(), RunningMean()
        floats = [name for name, tensor in initial.items() if tensor.is_floating_point()]
        directions = {name: torch.zeros_like(initial[name]) for name in floats}
        moved = {name: initial[name].new_zeros(()) for name in floats}
        for member in members:
            weights = member.load()
            mean.add(weights)
            for name in floats:
                by = weights[name] - initial[name]
                length = by.norm()
                directions[name] += by / torch.where(length > 0, length, 1)
                moved[name] += length > 0
        n, merged = len(members), mean.mean
        for name in floats:
            cosine = (directions[name].square().sum() - moved[name]) / (n * (n - 1))
            cosine = cosine.clamp(0, 1)
            merged[name] = torch.lerp(initial[name], merged[name], n * cosine / (1 + (n - 1) * cosine))
        return merged
