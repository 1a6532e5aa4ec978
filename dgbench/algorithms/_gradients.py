"""Gradients of each domain's loss with respect to all parameters, and an optimizer step with their masked mean.

Each domain has a forward pass of its own: a backward pass from one domain's loss then goes through its own rows alone,
where after a joint pass it would go through those of all domains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from dgbench.methods.algorithm import Algorithm
from dgbench.methods.batch import Batch


def of_each_domain(
    algorithm: Algorithm, batches: Sequence[Batch], *, differentiable: bool = False
) -> tuple[Tensor, list[nn.Parameter], list[Tensor]]:
    """Compute the gradient of each domain's mean loss with respect to every parameter that it depends on.

    `.grad` is left alone.

    Args:
        algorithm: The method that the parameters and the loss are of.
        batches: The minibatches, one of each of E domains.
        differentiable: Keep the graph of the gradients, so that a loss may be made of them.

    Returns:
        (losses, parameters, gradients): the mean losses (E,) with their graph, the parameters that they depend on, and
        for each parameter the gradients of all domains, stacked (E, *shape).
    """
    learning = [parameter for parameter in algorithm.parameters() if parameter.requires_grad]
    losses, found = [], []
    for batch in batches:
        loss = algorithm.joint_loss([batch])
        found.append(torch.autograd.grad(loss, learning, create_graph=differentiable, allow_unused=True))
        losses.append(loss)
    # All domains pass through the same modules, so the first one's gradients show which parameters are used at all.
    used = [i for i, g in enumerate(found[0]) if g is not None]
    return torch.stack(losses), [learning[i] for i in used], [torch.stack([g[i] for g in found]) for i in used]


def agreement(gradients: Tensor) -> Tensor:
    """Return, for each coordinate, by how many domains the majority for one sign outweighs the minority.

    The counts are whole numbers from 0 to E and so exact in floating point: a comparison with a threshold can't be
    decided by rounding, as that of a mean of signs could.

    Args:
        gradients: (E, ...), one of each domain. An entry of 0 counts for neither sign.

    Returns:
        (...), in the dtype of `gradients`.
    """
    return gradients.sign().sum(dim=0).abs()


def step_masked(
    algorithm: Algorithm, losses: Tensor, parameters: list[nn.Parameter], gradients: list[Tensor], masks: list[Tensor]
) -> Mapping[str, Tensor]:
    """Take one optimizer step with the masked mean gradient, each tensor divided by the mean of its mask.

    Args:
        algorithm: The method, whose `optimizer` steps.
        losses: Mean losses of the domains (E,), for the log alone.
        parameters: The parameters to step.
        gradients: For each parameter the domains' gradients (E, *shape).
        masks: For each parameter a mask in [0, 1] of its shape.

    Returns:
        The scalars to log: `loss`, the mean of `losses`, and `kept`, the mean of the mask over all coordinates.
    """
    algorithm.optimizer.zero_grad(set_to_none=True)
    for parameter, gradient, mask in zip(parameters, gradients, masks, strict=True):
        # A tensor of which little is kept steps as far as if all were. The bound is for a mask that is 0 everywhere.
        parameter.grad = mask * gradient.mean(dim=0) / mask.mean().clamp_min(1e-10)
    algorithm.optimizer.step()
    kept = torch.stack([mask.sum() for mask in masks]).sum() / sum(mask.numel() for mask in masks)
    return {"loss": losses.detach().mean(), "kept": kept}
