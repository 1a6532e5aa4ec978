"""What adversarial methods share: DomainBed's discriminator, the labels it learns, whose turn it is, reversal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dgbench.methods.algorithm import Batch


def discriminator(num_inputs: int, num_outputs: int, hparams: Any) -> nn.Sequential:
    """`mlp_depth` linear layers of `mlp_width`, ReLU and dropout (`mlp_dropout`) between them: DomainBed's MLP."""
    layers: list[nn.Module] = []
    width = num_inputs
    for _ in range(hparams.mlp_depth - 1):
        layers += [nn.Linear(width, hparams.mlp_width), nn.Dropout(hparams.mlp_dropout), nn.ReLU()]
        width = hparams.mlp_width
    return nn.Sequential(*layers, nn.Linear(width, num_outputs))


def domain_labels(batches: Sequence[Batch]) -> Tensor:
    """The number of the domain that each example comes from, in the order of the concatenated minibatches."""
    return torch.cat([torch.full_like(batch.positions, batch.domain) for batch in batches])


def is_discriminators_turn(step: int, d_steps_per_g_step: int) -> bool:
    """Whether the discriminator learns in this step; DomainBed's order, so the very first may be the network's."""
    return (step + 1) % (1 + d_steps_per_g_step) < d_steps_per_g_step


def gradient_reversal(x: Tensor, weight: float) -> Tensor:
    """`x` itself, whose gradient is multiplied by -weight on its way back."""
    reversed_: Tensor = _Reversal.apply(x, weight)
    return reversed_


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: float) -> Tensor:
        ctx.weight = weight
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return -ctx.weight * grad, None
