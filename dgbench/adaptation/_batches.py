"""Share the code of adapters that learn from a batch as a whole: its entropies, and a last batch of one."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def scales_and_shifts(norms: Iterable[nn.Module]) -> list[Tensor]:
    """The affine parameters of normalisation layers; they learn from now on."""
    found = [parameter for norm in norms for parameter in norm.parameters(recurse=False)]
    return [parameter.requires_grad_(True) for parameter in found]


def entropies(logits: Tensor) -> Tensor:
    """Entropy of each example's prediction, in nats (B,)."""
    return -(logits.softmax(dim=1) * logits.log_softmax(dim=1)).sum(dim=1)


class Batches:
    """The batches of a view. A lone input has no statistics of its own, so it is joined to the batch before it."""

    def __init__(self) -> None:
        self._before: Tensor | None = None

    def joined(self, x: Tensor) -> Tensor:
        """The inputs to show the network for those of `x`, which are the last of them."""
        if len(x) > 1:
            self._before = x
        elif self._before is not None:
            return torch.cat([self._before, x])
        return x
