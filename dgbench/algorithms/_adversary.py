"""Parts that adversarial methods share: discriminator, domain labels, order of turns, gradient reversal.

Discriminator and turns are DomainBed's. A method trains the discriminator by an optimizer apart from the network's,
either in turns with the network (`is_discriminators_turn`) or in the same backward pass (`gradient_reversal`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dgbench.methods.batch import Batch


def discriminator(num_inputs: int, num_outputs: int, hparams: Any) -> nn.Sequential:
    """Build DomainBed's discriminator: linear layers with dropout and ReLU between them.

    Args:
        num_inputs: Width of an input.
        num_outputs: Number of logits.
        hparams: Hyperparameters of a method, with `mlp_depth` (linear layers), `mlp_width` (units of each hidden layer)
            and `mlp_dropout` (probability).

    Returns:
        A freshly initialized module from (B, num_inputs) to (B, num_outputs).
    """
    layers: list[nn.Module] = []
    width = num_inputs
    for _ in range(hparams.mlp_depth - 1):
        layers += [nn.Linear(width, hparams.mlp_width), nn.Dropout(hparams.mlp_dropout), nn.ReLU()]
        width = hparams.mlp_width
    return nn.Sequential(*layers, nn.Linear(width, num_outputs))


def domain_labels(batches: Sequence[Batch]) -> Tensor:
    """Return the domain number of each example (n,), int64, in the order of the concatenated minibatches."""
    return torch.cat([torch.full_like(batch.positions, batch.domain) for batch in batches])


def is_discriminators_turn(step: int, d_steps_per_g_step: int) -> bool:
    """Return whether the discriminator learns in this step; otherwise the network does.

    Of every `1 + d_steps_per_g_step` steps one is the network's. Steps are counted from 1, as in DomainBed, so with
    `d_steps_per_g_step` 1 the very first step of a run is the network's.

    Args:
        step: Steps before this one.
        d_steps_per_g_step: The discriminator's steps for each of the network's.
    """
    return (step + 1) % (1 + d_steps_per_g_step) < d_steps_per_g_step


def gradient_reversal(x: Tensor, weight: float) -> Tensor:
    """Return `x` unchanged, with a gradient that is multiplied by `-weight` on its way back."""
    reversed_: Tensor = _Reversal.apply(x, weight)
    return reversed_


class _Reversal(torch.autograd.Function):
    """The identity whose derivative is multiplied by `-weight`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: float) -> Tensor:
        ctx.weight = weight
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return -ctx.weight * grad, None
