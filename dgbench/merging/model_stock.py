"""Model Stock: the angle between a few fine-tuned models gives how far to go back to their start."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from dgbench.core.cards import MergerCard
from dgbench.methods.average import Weights
from dgbench.methods.merger import Member, Merger, Tools


class ModelStock(Merger):
    r"""Pull the mean of the runs back to their start, the further the wider the angle between them.

    $$
    \bar\theta = t \cdot \frac1N \sum_{m=1}^{N} \theta_m + (1 - t)\, \theta_0, \qquad t = \frac{N c}{1 + (N - 1)\, c},
    \qquad c = \mathop{\mathrm{mean}}_{i < j} \cos(d_i, d_j)
    $$

    This holds for each tensor by itself. $\theta_0$ are the weights that all members started from,
    $d_m = \theta_m - \theta_0$, and $c$ is the mean over all pairs of the $N$ members. If the models lie on a sphere
    around some center, at right angles as seen from it, $\bar\theta$ is the point nearest to the center on the line
    from $\theta_0$ to their mean.

    Reference:
        Jang, Yun and Han, "Model Stock: All we need is just a few fine-tuned models", ECCV 2024.

    Departures from the paper, which has no published code:

    - $t$ lies in [0, 1]: where $c < 0$ the tensor is that of $\theta_0$.
    - The merge is made once, at the end; the paper also describes merging in every epoch.
    - A tensor that a member left as it was has $c = 0$ with the others.
    - Every tensor counts, also the classifier's, for which $\theta_0$ is whatever the runs started with. Integer
      tensors are the last member's.
    """

    card = MergerCard(
        paper="Jang et al., ECCV 2024", link="https://arxiv.org/abs/2403.19522", tags=("averaging", "pretraining")
    )

    @torch.no_grad()
    def merge(self, members: Sequence[Member], tools: Tools) -> Weights:
        """Return the merged weights, computed tensor by tensor: the initial weights and the result are in memory."""
        merged: Weights = {}
        for name, initial in tools.initial().items():
            if initial.is_floating_point():
                merged[name] = _stocked(initial, [partial(member.tensor, name) for member in members])
            else:
                merged[name] = members[-1].tensor(name)
        return merged


def _stocked(initial: Tensor, members: Sequence[Callable[[], Tensor]]) -> Tensor:
    """Return a tensor's mean over the members, drawn back to the initial one; members are read one by one."""
    n, moved = len(members), 0.0
    mean, directions, by = (torch.zeros_like(initial) for _ in range(3))
    for member in members:
        torch.sub(member(), initial, out=by)
        mean.add_(by, alpha=1 / n)
        length = by.norm()
        directions += by.div_(torch.where(length > 0, length, 1))
        moved += length > 0
    # The sum of the cosines over all ordered pairs of members is ||sum of the unit vectors||^2 - N, without any pair.
    cosine = ((directions.flatten().dot(directions.flatten()) - moved) / (n * (n - 1))).clamp(0, 1)
    return mean.mul_(n * cosine / (1 + (n - 1) * cosine)).add_(initial)
