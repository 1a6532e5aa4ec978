"""Learned step size quantization (LSQ) of convolutions: weights of few bits, as a parametrization to be switched on.

    w_hat = s * round(clip(w / s, low, high)),   low = -2^(bits - 1), high = 2^(bits - 1) - 1, s of an output channel

    d w_hat / d w = 1 inside the range, 0 outside
    d w_hat / d s = (round(v) - v inside, v = w / s; else low or high), its sum divided by sqrt(high * numel(w))

Reference:
    Esser, McKinstry, Bablani, Appuswamy and Modha, "Learned Step Size Quantization", ICLR 2020.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from dgbench.networks.network import Network


class Quantizer(nn.Module):
    """The parametrization of a convolution's weights (C, ...): quantized once `on`, a scale for each channel.

    `scale` (C,), one for each output channel, is learned; `low` and `high` are the least and the greatest level. `on`,
    0 or 1, is a buffer, so it is saved with the weights that it is about, and it is read on the device alone: no step
    waits for it. Made by `add_quantizers`.
    """

    on: Tensor

    def __init__(self, weight: Tensor, bits: int) -> None:
        super().__init__()
        self.low, self.high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        self.scale = nn.Parameter(self._fitting(weight))
        self.register_buffer("on", torch.zeros((), dtype=torch.int64, device=weight.device))

    def _fitting(self, weight: Tensor) -> Tensor:
        """Return the scales 2 mean |w| / sqrt(high) of the channels (C,)."""
        scale: Tensor = 2 * weight.detach().abs().flatten(1).mean(dim=1) / self.high**0.5
        # So that a channel of zeros stays one: its weights are divided by the scale.
        return scale.clamp(min=1e-8)

    @torch.no_grad()
    def start(self, weight: Tensor) -> None:
        """Switch quantization on, with scales that fit these weights."""
        self.scale.copy_(self._fitting(weight))
        self.on.fill_(1)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weights that the convolution uses."""
        scale = self.scale.view(-1, *[1] * (weight.dim() - 1))
        quantized: Tensor = _Rounded.apply(weight, scale, self.low, self.high)
        return torch.where(self.on > 0, quantized, weight)


class _Rounded(torch.autograd.Function):
    """The operation s * round(clip(w / s, low, high)) with the straight-through derivatives of the module docstring."""

    generate_vmap_rule = True  # mergers take gradients of single examples

    @staticmethod
    def forward(weight: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
        return (weight / scale).clamp(low, high).round() * scale

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, int, int], output: Tensor) -> None:
        weight, scale, ctx.low, ctx.high = inputs
        ctx.save_for_backward(weight, scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        weight, scale = ctx.saved_tensors
        v = weight / scale
        inside = (v > ctx.low) & (v < ctx.high)
        # `numel` counts the whole tensor although each channel has a scale of its own, as QT-DoG's code has it.
        level = v.clamp(ctx.low, ctx.high).round()
        by_scale = gradient * torch.where(inside, level - v, level) / (ctx.high * weight.numel()) ** 0.5
        return gradient * inside, by_scale.flatten(1).sum(dim=1).view(scale.shape), None, None


def add_quantizers(network: Network, bits: int) -> list[tuple[nn.Conv2d, Quantizer]]:
    """Give every convolution that learns a quantizer, switched off, and return the pairs.

    Frozen convolutions stay as they are.

    Args:
        network: The network, which is changed in place.
        bits: Bits of a quantized weight, at least 2.

    Returns:
        (convolution, quantizer) of each, in the order of the network's modules.
    """
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.weight.requires_grad]
    pairs = [(convolution, Quantizer(convolution.weight, bits)) for convolution in convolutions]
    for convolution, quantizer in pairs:
        register_parametrization(convolution, "weight", quantizer)
    return pairs
