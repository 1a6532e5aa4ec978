"""What adapters share that learn from a batch as a whole: its statistics, its entropies, and a last batch of one."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dgbench.networks.norms import batch_norms


def use_batch_statistics(module: nn.Module) -> list[nn.Module]:
    """From now on batch norm normalises by the batch at hand, in evaluation mode too; returns all of it."""
    norms = batch_norms(module)
    for norm in norms:
        if isinstance(norm, _BatchNorm):
            norm.track_running_stats = False
            norm.running_mean = norm.running_var = norm.num_batches_tracked = None
        else:
            norm.train()  # what it then remembers, it reads in evaluation alone
    return norms


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
