"""Compute gradients at other points than the current weights, as SAM and its kin do, and come back exactly.

A method finds a `gradient` at the weights, makes a displacement of it (`scale_to_length` and others), and calls
`backward_at` for the gradient at the displaced weights. That leaves its result in `.grad`, which a method may change in
place, and the weights bit for bit as they were: the optimizer then steps from them. Batch norm remembers the first pass
alone.

Lists of tensors are parallel to the list of parameters, one tensor for each and of its shape. "As one vector" means all
tensors of a list, flattened and joined.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from dgbench.methods.algorithm import Algorithm
from dgbench.methods.batch import Batch
from dgbench.networks.norms import frozen_batch_norm_statistics


def gradient(
    loss: Tensor, parameters: Iterable[Tensor], *, retain_graph: bool = False, create_graph: bool = False
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the parameters that `loss` depends on, and its gradient by each; leave `.grad` alone.

    Args:
        loss: A scalar with a graph.
        parameters: Those that require no gradient are left out.
        retain_graph: Keep the graph of `loss` for another backward pass.
        create_graph: Make gradients that can be differentiated in turn.

    Returns:
        Two parallel lists: parameters that `loss` reaches, and gradients.
    """
    learning = [parameter for parameter in parameters if parameter.requires_grad]
    keep = retain_graph or create_graph
    found = torch.autograd.grad(loss, learning, retain_graph=keep, create_graph=create_graph, allow_unused=True)
    pairs = [(parameter, g) for parameter, g in zip(learning, found, strict=True) if g is not None]
    return [parameter for parameter, _ in pairs], [g for _, g in pairs]


def global_norm(tensors: list[Tensor]) -> Tensor:
    """Return the Euclidean norm of all tensors as one vector, a scalar on their device."""
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors)))
    return norm


def scale_to_length(tensors: list[Tensor], length: float | Tensor, eps: float = 1e-12) -> list[Tensor]:
    """Return the tensors, as one vector v, scaled to a length: `length * v / (||v|| + eps)`.

    Args:
        tensors: v, as one vector.
        length: A number, or a scalar tensor on their device.
        eps: Keeps the division finite where v is 0.
    """
    factor: Tensor = length / (global_norm(tensors) + eps)
    return list(torch._foreach_mul(tensors, factor))


def scale_to_adaptive_length(
    tensors: list[Tensor], scales: list[Tensor], length: float | Tensor, eps: float = 1e-16
) -> list[Tensor]:
    """Return `length * T^2 v / (||T v|| + eps)`: v stretched by the scales T, to a length measured in w / T.

    Args:
        tensors: v, as one vector.
        scales: T, positive, parallel to `tensors` (see `adaptive_scales`).
        length: The norm of the result after division by T.
        eps: Keeps the division finite where v is 0.
    """
    scaled = list(torch._foreach_mul(tensors, scales))
    return list(torch._foreach_mul(scale_to_length(scaled, length, eps), scales))


def adaptive_scales(module: nn.Module, parameters: list[Tensor], eta: float) -> list[Tensor]:
    """Return ASAM's T for each parameter: |w| + eta if its name in `module` contains "weight", otherwise 1.

    Args:
        module: The module that the parameters belong to.
        parameters: w, each a parameter of the module.
        eta: Keeps the scales above 0 where weights are 0.
    """
    weights = {id(parameter) for name, parameter in module.named_parameters() if "weight" in name}
    return [p.detach().abs().add_(eta) if id(p) in weights else torch.ones_like(p) for p in parameters]


def orthogonal_part(tensors: list[Tensor], to: list[Tensor], eps: float = 1e-12) -> list[Tensor]:
    """Return `tensors`, as one vector v, without the part along `to`, w; all of v where w is 0.

    It is v - c ||v|| w / (||w|| + eps), where c = <v, w> / (||v|| ||w|| + eps).

    Args:
        tensors: v, as one vector.
        to: w, as one vector, parallel to `tensors`.
        eps: Keeps the divisions finite.
    """
    length, along = global_norm(tensors), global_norm(to)
    product = torch.stack([part.sum() for part in torch._foreach_mul(tensors, to)]).sum()
    factor = product / (length * along + eps) * length / (along + eps)
    return list(torch._foreach_sub(tensors, torch._foreach_mul(to, factor)))


def clip_to_radius(tensors: list[Tensor], radius: float, *, each: bool, eps: float = 1e-12) -> list[Tensor]:
    """Return the tensors, shortened to `radius` where they are longer.

    Args:
        tensors: Displacements.
        radius: The largest norm of the result.
        each: Clip each tensor by its own norm; False: all of them as one vector.
        eps: Keeps the division finite.
    """
    norms = torch.stack(torch._foreach_norm(tensors)) if each else global_norm(tensors).expand(len(tensors))
    factors = torch.where(norms > radius, radius / (norms + eps), 1.0)
    return list(torch._foreach_mul(tensors, list(factors.unbind())))


def backward_at(
    algorithm: Algorithm, batches: Sequence[Batch], parameters: list[Tensor], by: list[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Compute an algorithm's loss and its gradient at displaced parameters, then put the parameters back.

    Args:
        algorithm: The algorithm, in a later pass of its step; its `optimizer`'s gradients are cleared first.
        batches: The minibatches of the step.
        parameters: Those to displace.
        by: Their displacements.

    Returns:
        The loss, detached, and the gradient by `parameters`: the very tensors in `.grad`, so that changes in place are
        what the optimizer steps by. Parameters that were not displaced have their gradients in `.grad` too.
    """
    algorithm.optimizer.zero_grad(set_to_none=True)
    with displaced_parameters(algorithm, parameters, by), algorithm.passes.repeat(algorithm):
        loss = algorithm.objective(batches)["loss"]
        # Not by `gradient`: `.grad` gets the memory layout of its parameter, as the optimizer wants it.
        loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach(), gradients_in_place(parameters)


def gradients_in_place(parameters: list[Tensor]) -> list[Tensor]:
    """Return the `.grad` of each parameter, not copies."""
    found = [parameter.grad for parameter in parameters if parameter.grad is not None]
    assert len(found) == len(parameters), "the second pass reaches what the first reached"
    return found


@contextmanager
def displaced_parameters(module: nn.Module, parameters: list[Tensor], by: list[Tensor]) -> Iterator[None]:
    """Displace `parameters` within the block; batch norm then normalizes by the batch, but remembers nothing of it.

    Args:
        module: Its batch norm is the one meant.
        parameters: Changed in place, and bit for bit the same after the block.
        by: Their displacements.
    """
    with torch.no_grad():
        # Copied back at the end: subtracting the displacement would leave a rounding error in each step.
        saved = [parameter.clone() for parameter in parameters]
        torch._foreach_add_(parameters, by)
    try:
        with frozen_batch_norm_statistics(module):
            yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_(parameters, saved)
