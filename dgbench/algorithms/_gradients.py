"""The gradient of each domain's loss by all parameters, and a mean of them that is masked coordinate by coordinate.

Each domain has a forward pass of its own: a backward pass from one domain's loss then goes through its own rows alone,
where after a joint pass it would go through those of all domains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from dgbench.methods.algorithm import Algorithm, Batch


def of_each_domain(
    algorithm: Algorithm, batches: Sequence[Batch], *, differentiable: bool = False
) -> tuple[Tensor, list[nn.Parameter], list[Tensor]]:
    """Losses (E,), the parameters they depend on, and by each of these the gradients of all domains (E, ...)."""
    learning = [parameter for parameter in algorithm.parameters() if parameter.requires_grad]
    losses, found = [], []
    for batch in batches:
        loss = algorithm.joint_loss([batch])
        found.append(torch.autograd.grad(loss, learning, create_graph=differentiable, allow_unused=True))
        losses.append(loss)
    used = [i for i, g in enumerate(found[0]) if g is not None]
    return torch.stack(losses), [learning[i] for i in used], [torch.stack([g[i] for g in found]) for i in used]


def agreement(gradients: Tensor) -> Tensor:
    """By how many domains (E, ...) the majority for one sign outweighs the other, per coordinate: 0 to E, exact."""
    return gradients.sign().sum(dim=0).abs()


def step_masked(
    algorithm: Algorithm, losses: Tensor, parameters: list[nn.Parameter], gradients: list[Tensor], masks: list[Tensor]
) -> Mapping[str, Tensor]:
    """An optimizer step with the masked mean gradient; of each tensor it is divided by the mean of its mask."""
    algorithm.optimizer.zero_grad(set_to_none=True)
    for parameter, gradient, mask in zip(parameters, gradients, masks, strict=True):
        parameter.grad = mask * gradient.mean(dim=0) / mask.mean().clamp_min(1e-10)
    algorithm.optimizer.step()
    kept = torch.stack([mask.sum() for mask in masks]).sum() / sum(mask.numel() for mask in masks)
    return {"loss": losses.detach().mean(), "kept": kept}
