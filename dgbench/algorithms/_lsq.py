"""Learned step size quantisation of convolutions: weights of few bits, as a parametrisation that can be switched on.

    w_hat = s * round(clip(w / s, low, high)),   low = -2^(bits - 1), high = 2^(bits - 1) - 1, s of an output channel

    d w_hat / d w = 1 inside the range, 0 outside
    d w_hat / d s = (round(v) - v inside, v = w / s; else low or high), its sum divided by sqrt(high * numel(w))

Esser, McKinstry, Bablani, Appuswamy and Modha, "Learned Step Size Quantization", ICLR 2020.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from dgbench.networks.network import Network


class Quantizer(nn.Module):
    """A convolution's weights (C, ...), quantised once `on`, by a scale for each of the C output channels.

    `on`, 0 or 1, is a buffer and so is saved with the weights that it is about; it is read on the device alone.
    """

    on: Tensor

    def __init__(self, weight: Tensor, bits: int) -> None:
        super().__init__()
        self.low, self.high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        self.scale = nn.Parameter(self._fitting(weight))
        self.register_buffer("on", torch.zeros((), dtype=torch.int64, device=weight.device))

    def _fitting(self, weight: Tensor) -> Tensor:
        """The scales 2 mean |w| / sqrt(high), but so that a channel of zeros stays one."""
        scale: Tensor = 2 * weight.detach().abs().flatten(1).mean(dim=1) / self.high**0.5
        return scale.clamp(min=1e-8)

    @torch.no_grad()
    def start(self, weight: Tensor) -> None:
        """Quantise from now on, by the scales that fit these weights."""
        self.scale.copy_(self._fitting(weight))
        self.on.fill_(1)

    def forward(self, weight: Tensor) -> Tensor:
        """The weights that the convolution uses."""
        scale = self.scale.view(-1, *[1] * (weight.dim() - 1))
        quantised: Tensor = _Rounded.apply(weight, scale, self.low, self.high)
        return torch.where(self.on > 0, quantised, weight)


class _Rounded(torch.autograd.Function):
    """s * round(clip(w / s, low, high)) with the straight-through derivatives above."""

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
        level = v.clamp(ctx.low, ctx.high).round()
        by_scale = gradient * torch.where(inside, level - v, level) / (ctx.high * weight.numel()) ** 0.5
        return gradient * inside, by_scale.flatten(1).sum(dim=1).view(scale.shape), None, None


def add_quantizers(network: Network, bits: int) -> list[tuple[nn.Conv2d, Quantizer]]:
    """Give every convolution that learns a quantizer, switched off; what is frozen stays as it is."""
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.weight.requires_grad]
    pairs = [(convolution, Quantizer(convolution.weight, bits)) for convolution in convolutions]
    for convolution, quantizer in pairs:
        register_parametrization(convolution, "weight", quantizer)
    return pairs
