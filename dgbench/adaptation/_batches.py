"""Tools of adapters that learn from a batch as a whole: its entropies, and batches of one."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def scales_and_shifts(norms: Iterable[nn.Module]) -> list[Tensor]:
    """Collect the affine parameters of normalization layers, and let them learn.

    Args:
        norms: The layers; parameters of their submodules are left out.

    Returns:
        Their scales and shifts, layer by layer, with `requires_grad` on.
    """
    found = [parameter for norm in norms for parameter in norm.parameters(recurse=False)]
    return [parameter.requires_grad_(True) for parameter in found]


def entropies(logits: Tensor) -> Tensor:
    """Return the entropy of each example's prediction (B,), in nats, from logits (B, classes)."""
    return -(logits.softmax(dim=1) * logits.log_softmax(dim=1)).sum(dim=1)


class Batches:
    """The batches of a stream, in which a batch of a single input joins the batch before it, or is doubled.

    A single input may have no statistics: one value of a feature has no variance. A copy of it leaves the mean and
    variance of its features as they are, and gives torch's batch norm the two values that it asks for.
    """

    def __init__(self) -> None:
        self._before: Tensor | None = None

    def join_single(self, x: Tensor) -> Tensor:
        """Return the inputs to pass through the network for a batch.

        Args:
            x: The next batch (B, ...).

        Returns:
            `x`, or for a single input the batch before it followed by `x`, or `x` twice if there was no batch of
            several before: the outputs for `x` are always the last B.
        """
        if len(x) > 1:
            self._before = x
            return x
        return torch.cat([x if self._before is None else self._before, x])
