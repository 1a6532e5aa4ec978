"""Measure batch-norm statistics for weights that no minibatch has passed through: averaged and merged models.

The mean of several models' statistics is not the statistics of their mean model. Where batch norm is live, statistics
are measured on minibatches of the training domains instead.
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
from dgbench.networks.low_rank import placed_weights
from dgbench.networks.norms import tracking_norms

MINIBATCHES = 500
"""Most minibatches to measure on, SWAD's number; a run of fewer steps has fewer."""


def with_statistics(context: RunContext, algorithm: Algorithm, weights: Weights) -> Weights:
    """Return weights with batch-norm statistics measured for them, where the algorithm's batch norm is live.

    Args:
        context: The run, whose first minibatches are the inputs.
        algorithm: The module that the weights belong to; left in training mode.
        weights: Name -> tensor, on any device.
    """
    algorithm.train()
    return measure_statistics(
        algorithm, weights, context.interruptible(inputs_for(algorithm, context.data, context.trained))
    )


@torch.no_grad()
def measure_statistics(module: nn.Module, weights: Mapping[str, Tensor], inputs: Iterable[Tensor]) -> dict[str, Tensor]:
    """Replace the batch-norm statistics among weights by those of `inputs`: batch mean and variance, averaged.

    Args:
        module: The module that the weights belong to, in training mode, which tells which batch norm is live. None of
            its tensors change. In the forward passes all layers but live batch norm are in evaluation mode.
        weights: Name in `module` -> tensor, on any device.
        inputs: Batches as the module takes them; not read if no batch norm is live.

    Returns:
        The weights on the module's device; those given, where they are, if no batch norm is live.
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
    placed = placed_weights(module, found)
    module.eval()
    try:
        for norm in live:
            norm.train()
        for seen, x in enumerate(inputs):
            for norm in live:
                norm.momentum = 1 / (seen + 1)  # makes the running statistics the plain mean over batches
            # The call writes the new statistics into the buffers of `found`; the module's own stay untouched.
            functional_call(module, placed, (x,), tie_weights=False)
    finally:
        for norm, momentum in zip(live, momenta, strict=True):
            norm.momentum = momentum
        module.train()
    return found


def inputs_for(algorithm: Algorithm, data: ViewData, run: Run) -> Iterator[Tensor]:
    """Yield the joint minibatches of a run's first steps, all domains in one tensor, as the network takes them."""
    device = next(algorithm.parameters()).device
    for minibatch in Minibatches(data, run).between(0, min(MINIBATCHES, run.setting.steps), workers=0):
        yield torch.cat([algorithm.network.prepare(x.to(device)) for x, *_ in minibatch])
