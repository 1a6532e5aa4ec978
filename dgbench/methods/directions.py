"""Choose directions and planes in the space of weights, to draw a loss along them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def filter_normalized(direction: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Scale each filter of a direction to the length of the same filter of the weights.

    Layers of any scale then show on one axis (Li et al., NeurIPS 2018). A filter is what makes one output: a row of a
    matrix, a slice of a convolution. Biases and batch norm's parameters don't move.

    Args:
        direction: Parameter -> random numbers in its shape.
        weights: Parameter -> its value.
    """
    scaled = {}
    for name, value in weights.items():
        if value.ndim < 2:
            scaled[name] = torch.zeros_like(value)
            continue
        rows, lengths = direction[name].flatten(1), value.flatten(1).norm(dim=1, keepdim=True)
        scaled[name] = (rows * lengths / rows.norm(dim=1, keepdim=True).clamp_min(1e-10)).view_as(value)
    return scaled


def plane_through(first: Tensor, second: Tensor, third: Tensor) -> tuple[Tensor, Tensor, list[tuple[float, float]]]:
    """Return a plane with three points of the space of weights on it.

    Args:
        first: The plane's origin (size,).
        second: The point (size,) that the first axis leads to.
        third: The point (size,) on the side of the second axis.

    Returns:
        Two orthogonal axes (size,), both as long as the way from `first` to `second`, and the coordinates of the three
        points along them.

    Raises:
        ValueError: The points lie on one line.
    """
    across, other = second - first, third - first
    along = float(other @ across / (across @ across))
    rest = other - along * across
    if not float(rest.norm()) > 1e-9 * float(other.norm()):
        raise ValueError("the three points lie on one line")
    up = rest * (across.norm() / rest.norm())
    return across, up, [(0.0, 0.0), (1.0, 0.0), (along, float(rest.norm() / across.norm()))]
