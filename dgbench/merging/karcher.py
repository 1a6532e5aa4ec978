"""The Karcher mean of the runs' directions from their start: spherical interpolation for any number of models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dgbench.core.cards import MergerCard
from dgbench.core.space import Checked, hparam
from dgbench.merging._task_vectors import TaskVectors
from dgbench.methods.average import Weights
from dgbench.methods.merger import Member, Merger, Tools

_MOST = 100
"""Most steps to the mean; for directions within a half-sphere it takes a few."""
_NEAR = 1e-12
"""Length of a step below which the mean is found."""


class KarcherMean(Merger):
    r"""Average all runs of a trial on a sphere: the mean direction from their start, times their mean length.

    $$
    \theta = o + \Big( \frac1M \sum_{m=1}^{M} \lVert d_m \rVert \Big) u, \qquad
    u = \mathop{\arg\min}_{\lVert v \rVert = 1} \sum_{m=1}^{M} \arccos^2 \frac{\langle v, d_m \rangle}
    {\lVert d_m \rVert}, \qquad d_m = \theta_m - o
    $$

    This holds for each tensor by itself. $o$ are the weights that the $M$ members started from, or 0 with
    `origin = zero`. A plain mean is shorter than its members, the more so the wider the angle between them; $u$ keeps
    their length. For two members of equal length $\theta$ is the middle of their spherical linear interpolation
    (SLERP). The mean direction is found by steps on the sphere, in double precision.

    Reference:
        Shoemake, "Animating Rotation with Quaternion Curves", SIGGRAPH 1985, for SLERP; Karcher, "Riemannian Center of
        Mass and Mollifier Smoothing", Communications on Pure and Applied Mathematics 1977; on models' displacements:
        Ramé et al., "WARP: On the Benefits of Weight Averaged Rewarded Policies", 2024.

    Departures from WARP, which has no published code, and from the mergers `slerp` and `karcher` of mergekit:

    - WARP interpolates two models, and more in turns; all members count at once here.
    - Lengths are averaged apart from directions, as in mergekit's `karcher`; its `slerp` interpolates both together.
    - mergekit measures from 0, as `origin = zero` does, in which fine-tuned models lie in one direction almost.
    - Members that left a tensor as it was count in its length, not in its direction. Where directions cancel (as a
      single number's of both signs), the plain mean is taken. Batch-norm statistics are averaged uniformly.
    """

    card = MergerCard(
        paper="Shoemake, SIGGRAPH 1985", link="https://arxiv.org/abs/2406.16768", tags=("averaging", "pretraining")
    )

    @dataclass(frozen=True)
    class Hparams(Checked):
        """Hyperparameters of KarcherMean."""

        origin: str = hparam(
            "start", help="the center of the sphere: the weights that runs start from, or 0", options=("start", "zero")
        )

    hparams: Hparams

    @torch.no_grad()
    def merge(self, members: Sequence[Member], tools: Tools) -> Weights:
        """Return the merged weights, computed tensor by tensor, each of which is read from all members at once."""
        vectors = TaskVectors(members, tools)
        moved = {}
        for name in vectors.names:
            start = vectors.start[name].double()
            origin = start if self.hparams.origin == "start" else torch.zeros_like(start)
            directions = torch.stack([member.tensor(name).double() - origin for member in members])
            moved[name] = (origin + mean_on_sphere(directions) - start).to(vectors.start[name].dtype)
        return vectors.moved(moved)


def mean_on_sphere(vectors: Tensor) -> Tensor:
    """Return the Karcher mean of the directions of vectors, times their mean length.

    Args:
        vectors: (M, ...), in double precision; those of length 0 have no direction.

    Returns:
        (...): the plain mean where directions cancel.
    """
    flat = vectors.flatten(1)
    lengths = flat.norm(dim=1)
    units = flat[lengths > 0] / lengths[lengths > 0, None]
    mean = units.mean(0) if len(units) else flat.mean(0)
    if not mean.norm() > _NEAR:
        return vectors.mean(0)
    mean = mean / mean.norm()
    for _ in range(_MOST):
        step = _towards(mean, units).mean(0)
        length = step.norm()
        if length < _NEAR:
            break
        mean = torch.cos(length) * mean + torch.sin(length) * step / length
        mean = mean / mean.norm()
    found: Tensor = lengths.mean() * mean
    return found.view(vectors.shape[1:])


def _towards(point: Tensor, units: Tensor) -> Tensor:
    """Return the tangent vectors at `point` (n) that lead to `units` (M, n), as long as the ways on the sphere."""
    along = units @ point
    across = units - along[:, None] * point
    widths = across.norm(dim=1)
    # atan2 keeps its digits at small angles, where arccos loses half of them.
    angles = torch.atan2(widths, along)
    ways: Tensor = (angles / widths.where(widths > 0, 1))[:, None] * across
    return ways
