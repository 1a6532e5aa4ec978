"""Measure how much a loss rises when the weights move: on average, and at worst, within a ball around them."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dgbench.methods.curvature import Estimate, gaussian
from dgbench.methods.surface import Surface

Norm = Literal["l2", "linf"]
"""Shape of the ball."""
_FIRST, _SHRINK, _LEAST, _RISING, _MOMENTUM = 0.22, 0.03, 0.06, 0.75, 0.75
"""Constants of auto-PGD (Croce and Hein, ICML 2020): the first period of steps at one length, as a share of all, by how
much each period is shorter than the one before, the shortest; the share of steps that must succeed; the momentum."""


def adaptive_scale(weights: Tensor) -> Tensor:
    """Return the lengths (size,) of a ball's axes for adaptive sharpness, the weights' magnitudes.

    A weight of 0 doesn't move. Such a ball follows a network whose layers are scaled up and down without any effect.
    """
    return weights.abs()


def average_sharpness(
    surface: Surface,
    rho: float,
    scale: Tensor,
    norm: Norm,
    draws: int,
    generator: torch.Generator,
    *,
    mirrored: bool = False,
) -> Estimate:
    """Estimate the mean rise of the loss under random moves of the weights.

    Args:
        surface: The loss.
        rho: Size of the moves: their standard deviation for `l2`, the half-width of their uniform distribution for
            `linf`, both times `scale`.
        scale: Length of each axis (size,); ones for a ball.
        norm: Which of the two.
        draws: Number of moves, at least 2.
        generator: Draws the moves.
        mirrored: Whether a draw is the mean of a move and its opposite. The mean is the same, and its error smaller
            where the gradient is large: the slope's share cancels.

    Returns:
        The mean over the draws and its standard error.
    """
    start, rises = surface.loss(), list[float]()
    for _ in range(draws):
        if norm == "l2":
            move = gaussian(1, surface.size, generator, scale)[0]
        else:
            uniform = torch.rand(surface.size, generator=generator, dtype=torch.float64, device=generator.device)
            move = (2 * uniform - 1).to(scale)
        moves = (move, -move) if mirrored else (move,)
        rises.append(sum(surface.loss(surface.origin + rho * scale * one) for one in moves) / len(moves) - start)
    return Estimate(float(np.mean(rises)), float(np.std(rises, ddof=1) / np.sqrt(draws)))


def worst_sharpness(surface: Surface, rho: float, scale: Tensor, norm: Norm, steps: int) -> float:
    """Return the largest rise of the loss that auto-PGD finds in a ball around the weights.

    A lower bound of the true one: the search may end at a local maximum. It works on `u`, the move divided by `scale`,
    whose ball has one radius.

    Args:
        surface: The loss.
        rho: Radius of the ball in `u`.
        scale: Length of each axis (size,); where it is 0, the weight doesn't move.
        norm: Shape of the ball.
        steps: Points to try, at least 1. All but the last have their gradient taken, beside the surface's `start`.
    """
    start, slope = surface.start
    best_rise, best, best_slope = 0.0, torch.zeros_like(scale), slope * scale
    u, before, length, momentum = best, best, 2 * rho, 1.0
    period, since, successes, best_then, shortened = max(1, int(_FIRST * steps)), 0, 0, 0.0, True
    rise, ascent = 0.0, best_slope
    for number in range(1, steps + 1):
        stepped = _into_ball(u + length * _steepest(ascent, norm), rho, norm)
        moved = _into_ball(u + momentum * (stepped - u) + (1 - momentum) * (u - before), rho, norm)
        before, u, momentum = u, moved, _MOMENTUM
        point = surface.origin + scale * u
        if number == steps:
            return max(best_rise, surface.loss(point) - start)
        loss, slope = surface.gradient(point)
        successes += loss - start > rise
        rise, ascent, since = loss - start, slope * scale, since + 1
        if rise > best_rise:
            best_rise, best, best_slope = rise, u, ascent
        if since == period:
            stuck = best_rise == best_then and not shortened
            shortened = successes < _RISING * since or stuck
            if shortened:
                length /= 2
                u, before, rise, ascent, momentum = best, best, best_rise, best_slope, 1.0
            best_then, successes, since = best_rise, 0, 0
            period = max(period - max(1, int(_SHRINK * steps)), max(1, int(_LEAST * steps)))
    return best_rise


def step_sharpness(surface: Surface, rho: float, scale: Tensor | None = None) -> float:
    """Return the rise of the loss after the one step that a linear loss would rise most by, as SAM takes it.

    Args:
        surface: The loss.
        rho: Length of the step, over `scale`.
        scale: Length of each axis (size,); None: ones.
    """
    start, slope = surface.start
    axes = torch.ones_like(slope) if scale is None else scale
    return surface.loss(surface.origin + rho * axes * _steepest(axes * slope, "l2")) - start


def _steepest(gradient: Tensor, norm: Norm) -> Tensor:
    """Return the unit step that raises a linear function most; zero where the gradient is zero."""
    if norm == "linf":
        return gradient.sign()
    length: Tensor = gradient.norm().clamp_min(torch.finfo(gradient.dtype).tiny)
    return gradient / length


def _into_ball(u: Tensor, rho: float, norm: Norm) -> Tensor:
    """Return the nearest point of the ball of radius `rho`."""
    if norm == "linf":
        return u.clamp(-rho, rho)
    length: Tensor = u.norm().clamp_min(torch.finfo(u.dtype).tiny)
    return u * (rho / length).clamp_max(1.0)
