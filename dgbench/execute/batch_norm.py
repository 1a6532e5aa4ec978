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
from dgbench.execute.context import Workbench
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.average import Weights

MINIBATCHES = 500
"""Minibatches to measure on, as SWAD's authors do; fewer in runs of fewer steps."""


def with_statistics(bench: Workbench, algorithm: Algorithm, weights: Weights) -> Weights:
    """Give weights batch-norm statistics of their own, where the algorithm's batch norm is live."""
    algorithm.train()
    return measured(algorithm, weights, bench.interruptible(inputs_for(algorithm, bench.data, bench.trained)))


@torch.no_grad()
def measured(module: nn.Module, weights: Mapping[str, Tensor], inputs: Iterable[Tensor]) -> dict[str, Tensor]:
    """Replace the weights' batch-norm statistics by those of `inputs`: mean and variance of a batch, over batches.

    Args:
        module: In training mode, so that its batch norm says which of it is live; nothing in it changes. Everything
            but live batch norm runs in evaluation mode.
        weights: By their names in `module`, wherever they lie.
        inputs: Batches as the module takes them; read only if some batch norm is live.

    Returns:
        The weights on the module's device; as they came if no batch norm is live.
    """
    live = [(name, part) for name, part in module.named_modules() if _remembers(part) and part.training]
    if not live:
        return dict(weights)
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
