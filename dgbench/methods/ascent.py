"""What the methods share that need a gradient away from the current weights: climb, look, come back exactly.

`gradient` at the weights, then `backward_at` weights displaced by `of_length(gradient, rho)`, or by what else the
method says. What that leaves in `.grad` is changed in place by methods that mix gradients, and the optimizer steps from
the weights as they were: they come back bit for bit, and batch norm remembers the first pass alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dgbench.methods.algorithm import Algorithm, Batch
from dgbench.networks.norms import tracking_norms


def gradient(
    loss: Tensor, parameters: Iterable[Tensor], *, retain_graph: bool = False, create_graph: bool = False
) -> tuple[list[Tensor], list[Tensor]]:
    """The parameters that `loss` depends on, and its gradient by each; `.grad` is left alone."""
    learning = [parameter for parameter in parameters if parameter.requires_grad]
    keep = retain_graph or create_graph
    found = torch.autograd.grad(loss, learning, retain_graph=keep, create_graph=create_graph, allow_unused=True)
    pairs = [(parameter, g) for parameter, g in zip(learning, found, strict=True) if g is not None]
    return [parameter for parameter, _ in pairs], [g for _, g in pairs]


def global_norm(tensors: list[Tensor]) -> Tensor:
    """The Euclidean norm of all tensors taken as one vector, a scalar on their device."""
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors)))
    return norm


def scale_to_length(tensors: list[Tensor], length: float | Tensor, eps: float = 1e-12) -> list[Tensor]:
    """`length * v / (||v|| + eps)`, v being all tensors taken as one vector."""
    factor: Tensor = length / (global_norm(tensors) + eps)
    return list(torch._foreach_mul(tensors, factor))


def scale_to_adaptive_length(
    tensors: list[Tensor], scales: list[Tensor], length: float | Tensor, eps: float = 1e-16
) -> list[Tensor]:
    """`length * T^2 v / (||T v|| + eps)`, T being the scales: of that length where distances are measured by w / T."""
    scaled = list(torch._foreach_mul(tensors, scales))
    return list(torch._foreach_mul(scale_to_length(scaled, length, eps), scales))


def adaptive_scales(module: nn.Module, parameters: list[Tensor], eta: float) -> list[Tensor]:
    """ASAM's T of each parameter of the module: |w| + eta where its name says weight, 1 elsewhere."""
    weights = {id(parameter) for name, parameter in module.named_parameters() if "weight" in name}
    return [p.detach().abs().add_(eta) if id(p) in weights else torch.ones_like(p) for p in parameters]


def orthogonal_part(tensors: list[Tensor], to: list[Tensor], eps: float = 1e-12) -> list[Tensor]:
    """What is left of `tensors`, as one vector v, without its part along `to`, w: all of it where w is 0.

    v - c ||v|| w / (||w|| + eps), where c = <v, w> / (||v|| ||w|| + eps).
    """
    length, along = global_norm(tensors), global_norm(to)
    product = torch.stack([part.sum() for part in torch._foreach_mul(tensors, to)]).sum()
    factor = product / (length * along + eps) * length / (along + eps)
    return list(torch._foreach_sub(tensors, torch._foreach_mul(to, factor)))


def clip_to_radius(tensors: list[Tensor], radius: float, *, each: bool, eps: float = 1e-12) -> list[Tensor]:
    """The tensors shortened to `radius` where they are longer: each of them, or all as one vector."""
    norms = torch.stack(torch._foreach_norm(tensors)) if each else global_norm(tensors).expand(len(tensors))
    factors = torch.where(norms > radius, radius / (norms + eps), 1.0)
    return list(torch._foreach_mul(tensors, list(factors.unbind())))


def backward_at(
    algorithm: Algorithm, batches: Sequence[Batch], parameters: list[Tensor], by: list[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """ERM's loss where `parameters` are displaced, and its gradient by them there.

    The gradients are the very tensors in `.grad`, where those of all other parameters are too: the optimizer takes what
    is changed in them, in the memory layout that it wants.
    """
    algorithm.optimizer.zero_grad(set_to_none=True)
    with displaced_parameters(algorithm, parameters, by):
        loss = algorithm.joint_loss(batches)
        loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach(), gradients_in_place(parameters)


def gradients_in_place(parameters: list[Tensor]) -> list[Tensor]:
    """Their `.grad`, not copies."""
    found = [parameter.grad for parameter in parameters if parameter.grad is not None]
    assert len(found) == len(parameters), "the second pass reaches what the first reached"
    return found


@contextmanager
def displaced_parameters(module: nn.Module, parameters: list[Tensor], by: list[Tensor]) -> Iterator[None]:
    """Within the block `parameters` are displaced, and batch norm uses the batch's statistics but remembers none.

    Afterwards each parameter is copied back from a saved copy: subtracting the displacement would be off by a
    rounding error a step.
    """
    with torch.no_grad():
        saved = [parameter.clone() for parameter in parameters]
        torch._foreach_add_(parameters, by)
    try:
        with frozen_batch_norm_statistics(module):
            yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_(parameters, saved)


@contextmanager
def frozen_batch_norm_statistics(module: nn.Module) -> Iterator[None]:
    """Batch norm in training mode normalises as ever, but leaves its buffers alone, the count of batches included."""
    live = tracking_norms(module)
    # What is none of torch's can't be told to: its buffers are put back.
    others = [buffer for norm in live if not isinstance(norm, _BatchNorm) for buffer in norm.buffers(recurse=False)]
    saved = [buffer.clone() for buffer in others]
    norms = [norm for norm in live if isinstance(norm, _BatchNorm)]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
        for buffer, before in zip(others, saved, strict=True):
            buffer.copy_(before)
