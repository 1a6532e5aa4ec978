"""What the methods share that need a gradient away from the current weights: climb, look, come back exactly.

`gradient`, then `displaced(..., by=of_length(gradient, rho))` around the second pass; after the block the weights are
the saved ones bit for bit, and batch norm remembers the first pass alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def gradient(loss: Tensor, parameters: Iterable[nn.Parameter]) -> tuple[list[Tensor], list[Tensor]]:
    """The parameters that `loss` depends on, and its gradient by each; `.grad` is left alone."""
    learning = [parameter for parameter in parameters if parameter.requires_grad]
    found = torch.autograd.grad(loss, learning, allow_unused=True)
    pairs = [(parameter, g) for parameter, g in zip(learning, found, strict=True) if g is not None]
    return [parameter for parameter, _ in pairs], [g for _, g in pairs]


def global_norm(tensors: list[Tensor]) -> Tensor:
    """The Euclidean norm of all tensors taken as one vector, a scalar on their device."""
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors)))
    return norm


def of_length(tensors: list[Tensor], length: float | Tensor, eps: float = 1e-12) -> list[Tensor]:
    """`length * v / (||v|| + eps)`, v being all tensors taken as one vector."""
    factor: Tensor = length / (global_norm(tensors) + eps)
    return list(torch._foreach_mul(tensors, factor))


@contextmanager
def displaced(module: nn.Module, parameters: list[Tensor], by: list[Tensor]) -> Iterator[None]:
    """Within the block `parameters` are displaced, and batch norm uses the batch's statistics but remembers none.

    Afterwards each parameter is copied back from a saved copy: subtracting the displacement would be off by a
    rounding error a step.
    """
    with torch.no_grad():
        saved = [parameter.clone() for parameter in parameters]
        torch._foreach_add_(parameters, by)
    try:
        with _remembering_nothing(module):
            yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_(parameters, saved)


@contextmanager
def _remembering_nothing(module: nn.Module) -> Iterator[None]:
    """Batch norm in training mode normalises as ever, but leaves its buffers alone, the count of batches included."""
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
