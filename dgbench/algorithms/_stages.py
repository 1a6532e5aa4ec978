"""Tools for methods that change the values between a network's stages: hooks for one block, and styles.

The style of a feature map is the mean and the standard deviation of each of its channels over its positions. A style is
passed as a pair (mean, deviation), each (B, C, 1, 1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dgbench.core.errors import UserError
from dgbench.core.needs import Need
from dgbench.networks.network import Network

NOT_COMPILED = Need(
    "eager", why="changes what passes between stages anew in each step, which would be compiled anew in each"
)
"""The need of every method that changes what passes between stages."""
NOT_SPLIT = Need("whole_batches", why="reads what passes between stages of all examples of a minibatch together")
"""The need of every method that reads stages of examples together."""


@contextmanager
def replace_stage_outputs(network: Network, function: Callable[[int, Tensor], Tensor | None]) -> Iterator[None]:
    """Replace the output x of each stage i by `function(i, x)` within the block; None keeps it."""
    with replace_outputs(network.stages, function):
        yield


@contextmanager
def replace_outputs(modules: Iterable[nn.Module], function: Callable[[int, Tensor], Tensor | None]) -> Iterator[None]:
    """Replace the output x of each module i by `function(i, x)` within the block; None keeps it."""

    def hook(i: int) -> Callable[[nn.Module, Any, Tensor], Tensor | None]:
        return lambda _module, _inputs, x: function(i, x)

    handles = [module.register_forward_hook(hook(i)) for i, module in enumerate(modules)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def map_shapes(network: Network, input_shape: Sequence[int], method: str) -> list[tuple[int, int, int]]:
    """Return the shape of each stage's feature map; raise `UserError` if a stage's output is no feature map.

    Passes one input of zeros through the network, in evaluation mode: it draws no random number and changes no
    statistic.

    Args:
        network: The network to look at.
        input_shape: Shape of an input.
        method: Name of the method, for the message.

    Returns:
        (C, H, W) of each stage, in order.
    """
    shapes: dict[int, tuple[int, ...]] = {}

    def record(i: int, x: Tensor) -> None:
        shapes[i] = tuple(x.shape[1:])

    training, device = network.training, next(network.parameters()).device
    network.eval()
    with torch.no_grad(), replace_stage_outputs(network, record):
        network.features(torch.zeros(1, *input_shape, device=device))
    network.train(training)
    found = []
    for i in range(len(network.stages)):
        shape = shapes[i]
        if len(shape) != 3:
            raise UserError(
                f"{method} works on feature maps, so it needs images and a convolutional backbone; stage {i} of this "
                f"network gives {' x '.join(map(str, shape))} an example"
            )
        found.append((shape[0], shape[1], shape[2]))
    return found


def styled_stages(network: Network, input_shape: Sequence[int], method: str) -> list[tuple[int, int]]:
    """Return the stages whose feature maps have a style, those of more than one position, as pairs (stage, channels).

    Args:
        network: The network to look at.
        input_shape: Shape of an input.
        method: Name of the method, for the message of the `UserError` that is raised where a stage has no feature map.
    """
    shapes = map_shapes(network, input_shape, method)
    return [(i, channels) for i, (channels, height, width) in enumerate(shapes) if height * width > 1]


def style(x: Tensor) -> tuple[Tensor, Tensor]:
    """Compute mean and sqrt(variance + 1e-6) over the positions of feature maps (B, C, H, W), each (B, C, 1, 1).

    The variance is unbiased. Both are at least in float32: half precision would lose the deviations between examples.
    """
    found: tuple[Tensor, Tensor] = _Style.apply(_at_least_float32(x))
    return found


class _Style(torch.autograd.Function):
    """Mean and deviation by two passes over the maps, their derivatives by one.

    Autograd's own derivatives take three times as long.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        mean = x.mean(dim=(2, 3), keepdim=True)
        total = (x - mean).square().sum(dim=(2, 3), keepdim=True)
        std = (total / (x.shape[2] * x.shape[3] - 1) + 1e-6).sqrt()
        ctx.save_for_backward(x, mean, std)
        return mean, std

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_mean: Tensor, by_std: Tensor) -> Tensor:
        x, mean, std = ctx.saved_tensors
        positions = x.shape[2] * x.shape[3]
        factor = by_std / (std * (positions - 1))
        return torch.addcmul(by_mean / positions - factor * mean, x, factor)


def replace_style(x: Tensor, old: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor]) -> Tensor:
    """Return feature maps `x` (B, C, H, W) with their style replaced.

    Args:
        x: The feature maps.
        old: Their style, as `style` gives it.
        new: The style to give them.

    Returns:
        Feature maps in the dtype of `x`, computed at least in float32.
    """
    # (x - m) / s * s' + m', as one multiplication and one addition over the maps.
    factor = new[1] / old[1]
    return torch.addcmul(new[0] - old[0] * factor, _at_least_float32(x), factor).to(x.dtype)


def _at_least_float32(x: Tensor) -> Tensor:
    """Return `x` at least in float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def batch_deviation(statistic: Tensor) -> Tensor:
    """Return sqrt(variance + 1e-6) over the minibatch of a statistic (B, C, 1, 1), as (1, C, 1, 1); unbiased."""
    return (statistic.var(dim=0, keepdim=True) + 1e-6).sqrt()


def jitter_style(x: Tensor, old: tuple[Tensor, Tensor], deviations: tuple[Tensor, Tensor]) -> Tensor:
    """Return feature maps `x` (B, C, H, W) with Gaussian noise on their style, drawn for each example and channel.

    Args:
        x: The feature maps.
        old: Their style, as `style` gives it.
        deviations: Standard deviations of the noise on the means and on the deviations, each (1, C, 1, 1).
    """
    mean, std = old
    new_mean = mean + torch.randn_like(mean) * deviations[0]
    return replace_style(x, old, (new_mean, std + torch.randn_like(std) * deviations[1]))


def draw_uniform() -> float:
    """Draw a number in [0, 1) from torch's global generator of the CPU: the step need not wait for the device."""
    return float(torch.rand(1).numpy()[0])
