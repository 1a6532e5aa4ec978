"""Batch-norm statistics of weights that no minibatch has passed through: averages and merged models.

The mean of many models' statistics is not the statistics of the mean model. Where batch norm is live, they are measured
afresh on training minibatches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dgbench.core.run import Run
from dgbench.data.views import Minibatches, ViewData
from dgbench.execute.context import RunContext
from dgbench.methods.algorithm import Algorithm
from dgbench.methods.average import Weights
from dgbench.networks.norms import tracking_norms

MINIBATCHES = 500
"""Minibatches to measure on, as SWAD's authors do; fewer in runs of fewer steps."""


def with_statistics(context: RunContext, algorithm: Algorithm, weights: Weights) -> Weights:
    """Give weights batch-norm statistics of their own, where the algorithm's batch norm is live."""
    algorithm.train()
    return measure_statistics(
        algorithm, weights, context.interruptible(inputs_for(algorithm, context.data, context.trained))
    )


@torch.no_grad()
def measure_statistics(module: nn.Module, weights: Mapping[str, Tensor], inputs: Iterable[Tensor]) -> dict[str, Tensor]:
    """Replace the weights' batch-norm statistics by those of `inputs`: mean and variance of a batch, over batches.

    Args:
        module: In training mode, so that its batch norm says which of it is live; nothing in it changes. Everything
            but live batch norm runs in evaluation mode.
        weights: By their names in `module`, wherever they lie.
        inputs: Batches as the module takes them; read only if some batch norm is live.

    Returns:
        The weights on the module's device; as they came if no batch norm is live.
    """
    names: dict[nn.Module, str] = {part: name for name, part in module.named_modules()}
    live: list[Any] = tracking_norms(module)
    if not live:
        return dict(weights)
    device = next(module.parameters()).device
    found = {name: tensor.to(device) for name, tensor in weights.items()}
    for norm in live:
        for name, buffer in norm.named_buffers(recurse=False):
            found[f"{names[norm]}.{name}"] = torch.zeros_like(buffer)
    momenta = [norm.momentum for norm in live]
    module.eval()
    try:
        for norm in live:
            norm.train()
        for seen, x in enumerate(inputs):
            for norm in live:
                norm.momentum = 1 / (seen + 1)  # so that the mean over all batches is what remains
            functional_call(module, found, (x,), tie_weights=False)
    finally:
        for norm, momentum in zip(live, momenta, strict=True):
            norm.momentum = momentum
        module.train()
    return found


def inputs_for(algorithm: Algorithm, data: ViewData, run: Run) -> Iterator[Tensor]:
    """The joint minibatches of the first steps of a training run, as the network takes them, on its device."""
    device = next(algorithm.parameters()).device
    for minibatch in Minibatches(data, run).between(0, min(MINIBATCHES, run.setting.steps), workers=0):
        yield torch.cat([algorithm.network.prepare(x.to(device)) for x, *_ in minibatch])
