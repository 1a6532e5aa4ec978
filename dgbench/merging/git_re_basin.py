"""Git Re-Basin: permute the units of differently initialized runs until their weights match, then average them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from dgbench.core.cards import MergerCard
from dgbench.core.space import Checked, hparam
from dgbench.methods.average import RunningMean, Weights
from dgbench.methods.merger import Member, Merger, Tools
from dgbench.networks.permutations import Axis, Symmetry

_LEAST = 1e-9
"""Least rise of the inner product, relative to the squared length of the weights, that counts as progress."""


class GitReBasin(Merger):
    r"""Average the weights of all runs of a trial, each with its units in the order that matches the others best.

    $$
    \bar\theta = \frac1M \sum_{m=1}^{M} \pi_m(\theta_m), \qquad
    \pi_m \approx \mathop{\arg\max}_{\pi} \Big\langle \sum_{k \neq m} \pi_k(\theta_k),\ \pi(\theta_m) \Big\rangle
    $$

    $\pi$ permutes the units of all layers without a change of any output, so runs may start from different weights.
    This is the paper's weight matching: given the permutations of all other layers, that of one layer is a linear
    assignment problem, which is solved exactly; layers take turns, in random order, until none changes (algorithm 1).
    Members take turns, in random order too, each matched to the mean of the others, until none changes (MergeMany,
    algorithm 3); of two, this matches one to the other. The result is a local optimum, which the run's seed decides.

    Which units may change places is found by tracing the network: multilayer perceptrons, and convolutional networks
    with residual connections, batch, layer or group norm. Attention and concatenation are refused.

    Reference:
        Ainsworth, Hayase and Srinivasa, "Git Re-Basin: Merging Models modulo Permutation Symmetries", ICLR 2023.

    Departures from the authors' code:

    - Permutations are read off a traced network; theirs are written down for each architecture.
    - Under group norm, which their networks lack, groups stay together: the assignment of groups to groups is solved
      over the best assignments of channels within each pair, which is exact too.
    - Running statistics of batch norm are permuted and averaged, but do not count in the match; where batch norm is
      live, they are measured afresh. Theirs has layer norm.
    - All that is not permuted, such as the biases of the logits, is averaged as it is.
    """

    card = MergerCard(
        paper="Ainsworth et al., ICLR 2023",
        link="https://arxiv.org/abs/2209.04836",
        tags=("averaging",),
        shared_init=False,
        in_order="members are matched in turn, and the optimum is local",
        needs=("units",),
    )

    @dataclass(frozen=True)
    class Hparams(Checked):
        """Hyperparameters of GitReBasin."""

        most: int = hparam(
            100, help="most turns of the layers, and of the members, as in the release", within="[1, inf)"
        )

    hparams: Hparams

    @torch.no_grad()
    def merge(self, members: Sequence[Member], tools: Tools) -> Weights:
        """Return the mean of the permuted weights; all members are in memory."""
        symmetries = tools.symmetries()
        models = [member.load() for member in members]
        matched = [name for name, tensor in models[0].items() if _counts(tensor) and name not in tools.statistics]
        for _ in range(self.hparams.most if len(models) > 1 else 0):
            changed = False
            for i in torch.randperm(len(models)).tolist():
                target = RunningMean()
                for model in (*models[:i], *models[i + 1 :]):
                    target.add({name: model[name] for name in matched})
                orders = match(symmetries, target.mean, models[i], self.hparams.most)
                changed = changed or any(not torch.equal(order, torch.arange(len(order))) for order in orders)
                models[i] = permuted(symmetries, orders, models[i])
            if not changed:
                break
        mean = RunningMean()
        for model in models:
            mean.add(model)
        return mean.mean


def match(symmetries: Sequence[Symmetry], target: Weights, model: Weights, most: int = 100) -> list[Tensor]:
    """Return the order of units in which a model's weights have the highest inner product with a target's.

    Args:
        symmetries: The units that may change places.
        target: Weights that the model is matched to; other tensors do not count.
        model: The model's weights.
        most: Most turns of the symmetries, which are taken in random order.

    Returns:
        For each symmetry (units,): place i takes the unit that stands there; a local optimum.
    """
    orders = [torch.arange(symmetry.size) for symmetry in symmetries]
    least = _LEAST * sum(float(tensor.double().square().sum()) for tensor in target.values())
    for _ in range(most):
        progress = False
        for k in torch.randperm(len(symmetries)).tolist():
            gains = _similarities(symmetries, orders, k, target, model)
            if gains is None:
                continue
            order = assign(gains, symmetries[k].blocks)
            places = np.arange(len(order))
            if gains[places, order].sum() > gains[places, orders[k].numpy()].sum() + least:
                orders[k], progress = torch.from_numpy(order), True
        if not progress:
            break
    return orders


def assign(gains: NDArray[np.float64], blocks: int = 1) -> NDArray[np.int64]:
    """Return the permutation of highest total gain among those that keep blocks together.

    Args:
        gains: (n, n): gain of putting unit j in place i.
        blocks: Number of equal blocks of units, each of which moves as a whole; units change places within it too.

    Returns:
        (n,): the unit for each place.
    """
    width = len(gains) // blocks
    inner: dict[tuple[int, int], NDArray[np.int64]] = {}
    outer = np.empty((blocks, blocks))
    for i in range(blocks):
        for j in range(blocks):
            part = gains[i * width : (i + 1) * width, j * width : (j + 1) * width]
            rows, columns = linear_sum_assignment(part, maximize=True)
            inner[i, j], outer[i, j] = columns, part[rows, columns].sum()
    _, chosen = linear_sum_assignment(outer, maximize=True)
    return np.concatenate([j * width + inner[i, j] for i, j in enumerate(chosen.tolist())]).astype(np.int64)


def permuted(symmetries: Sequence[Symmetry], orders: Sequence[Tensor], model: Mapping[str, Tensor]) -> Weights:
    """Return weights with their units in other orders, one order (units,) for each symmetry."""
    found = dict(model)
    for symmetry, order in zip(symmetries, orders, strict=True):
        for axis in symmetry.axes:
            if axis.tensor in found:
                found[axis.tensor] = _reordered(found[axis.tensor], axis, order)
    return found


def _similarities(
    symmetries: Sequence[Symmetry], orders: Sequence[Tensor], k: int, target: Weights, model: Weights
) -> NDArray[np.float64] | None:
    """Return the inner products (n, n) of the target's units with the model's in one symmetry, the others applied.

    None if no tensor that counts has its units.
    """
    total = None
    for axis in symmetries[k].axes:
        if axis.tensor not in target:
            continue
        other = model[axis.tensor]
        for symmetry, order in zip(symmetries, orders, strict=True):
            # A layer may have the same units at both ends: the other end has them in their order so far.
            for each in symmetry.axes:
                if each.tensor == axis.tensor and each != axis:
                    other = _reordered(other, each, order)
        mine, theirs = (
            tensor.double().movedim(axis.dim, 0).reshape(symmetries[k].size, -1)
            for tensor in (target[axis.tensor], other)
        )
        total = mine @ theirs.T if total is None else total + mine @ theirs.T
    return None if total is None else total.cpu().numpy()


def _reordered(tensor: Tensor, axis: Axis, order: Tensor) -> Tensor:
    """Return a tensor with the units along an axis in another order, each with all of its entries."""
    entries = (order[:, None] * axis.repeats + torch.arange(axis.repeats)).flatten()
    return tensor.index_select(axis.dim, entries.to(tensor.device))


def _counts(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.dim() > 0
