"""Augment the inputs of a network as the images that they are."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dgbench.core.errors import UserError
from dgbench.networks.network import Network


def augmented(network: Network, x: Tensor, transform: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply a transform of images with values in [0, 1] to inputs of a network.

    Inputs that are no such images after the network's normalization is undone, because the data set normalizes them
    itself, are scaled to [0, 1] by their own least and largest value.

    Args:
        network: Gives mean and deviation of each channel, and the memory order.
        x: Inputs (B, C, H, W), as the network takes them.
        transform: Images (B, C, H, W) to images of that shape. It draws by torch's global generator.

    Returns:
        Inputs (B, C, H, W), as the network takes them.

    Raises:
        UserError: There are more than three channels.
    """
    channels = x.shape[1]
    if channels > 3:
        raise UserError(f"an adapter that augments images takes one to three channels, and these have {channels}")
    mean, std = (network.mean, network.std) if network.normalizes else (0.0, 1.0)
    pixels = x * std + mean
    low, high = pixels.amin().clamp(max=0), pixels.amax().clamp(min=1)
    pixels = (pixels - low) / (high - low)
    if channels == 2:  # transforms of colors know gray images and those of three colors
        pixels = torch.cat([pixels, torch.zeros_like(pixels[:, :1])], dim=1)
    found = transform(pixels)[:, :channels].clamp(0, 1) * (high - low) + low
    return ((found - mean) / std).contiguous(memory_format=network.memory_format)
