"""Batch-norm statistics of weights that no minibatch has passed through: averages and merged models.

The mean of many models' statistics is not the statistics of the mean model. Where batch norm is live, they are measured
afresh on training minibatches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from dgbench.core.run import Run
from dgbench.data.views import Minibatches, ViewData
from dgbench.methods.algorithm import Algorithm

MINIBATCHES = 500
"""Minibatches to measure on, as SWAD's authors do; fewer in runs of fewer steps."""


def is_live(module: nn.Module) -> bool:
    """Whether some batch norm of the module learns its statistics in training; ask in training mode."""
    return any(_remembers(part) and part.training for part in module.modules())


@torch.no_grad()
def measured(module: nn.Module, weights: Mapping[str, Tensor], inputs: Iterable[Tensor]) -> dict[str, Tensor]:
    """The weights with batch-norm statistics of `inputs`: mean and variance of each batch, averaged over batches.

    `module` is in training mode, so that its batch norm says which of it is live; nothing in it changes. Everything
    but live batch norm runs in evaluation mode.
    """
    live = [(name, part) for name, part in module.named_modules() if _remembers(part) and part.training]
    device = next(module.parameters()).device
    found = {name: tensor.to(device) for name, tensor in weights.items()}
    for name, norm in live:
        for buffer in ("running_mean", "running_var", "num_batches_tracked"):
            found[f"{name}.{buffer}"] = torch.zeros_like(getattr(norm, buffer))
    momenta = [norm.momentum for _, norm in live]
    module.eval()
    try:
        for _, norm in live:
            norm.train()
            norm.momentum = None  # torch's way to say: the mean over all batches
        for x in inputs:
            functional_call(module, found, (x,), tie_weights=False)
    finally:
        for (_, norm), momentum in zip(live, momenta, strict=True):
            norm.momentum = momentum
        module.train()
    return found


def inputs_for(algorithm: Algorithm, data: ViewData, run: Run) -> Iterator[Tensor]:
    """The joint minibatches of the first steps of a training run, as the network takes them, on its device."""
    device = next(algorithm.parameters()).device
    for minibatch in Minibatches(data, run).between(0, min(MINIBATCHES, run.setting.steps), workers=0):
        yield torch.cat([algorithm.network.prepare(x.to(device)) for x, *_ in minibatch])


def _remembers(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm) and module.track_running_stats and module.running_mean is not None
