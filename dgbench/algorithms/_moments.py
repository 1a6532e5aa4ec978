"""Distances between the features of several sets, by mean and covariance (CORAL) and by Gaussian kernels (MMD).

Both are means over all pairs of sets, computed without a loop over pairs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

GAMMAS = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)
"""The factors of the kernels exp(-gamma * ||x - y||^2), which are summed; DomainBed's."""


def variance(x: Tensor) -> Tensor:
    """Return the unbiased variance of each column (d,) of rows (n, d); that of a single row is 0."""
    return (x - x.mean(dim=0)).square().sum(dim=0) / max(len(x) - 1, 1)


def covariance(x: Tensor) -> Tensor:
    """Return the unbiased covariance (d, d) of the columns of rows (n, d); that of a single row is 0."""
    centered = x - x.mean(dim=0)
    return centered.T @ centered / max(len(x) - 1, 1)


def coral(sets: Sequence[Tensor]) -> Tensor:
    """Compute the distance by means and covariances, averaged over all pairs of sets.

    The distance of a pair is the mean squared difference of the means plus that of the covariances, each over its
    entries.

    Args:
        sets: At least two tensors (n, d); n may differ.

    Returns:
        A differentiable scalar.
    """
    means = torch.stack([x.mean(dim=0) for x in sets])
    covariances = torch.stack([covariance(x) for x in sets])
    # The mean of (a - b)^2 over all pairs is twice the unbiased variance.
    return 2 * (means.var(dim=0).mean() + covariances.var(dim=0).mean())


def mmd(sets: Sequence[Tensor]) -> Tensor:
    """Compute the squared maximum mean discrepancy, averaged over all pairs of sets.

    It is the biased estimate: a row is its own neighbor too.

    Args:
        sets: At least two tensors (n, d); n may differ.

    Returns:
        A differentiable scalar.
    """
    rows = torch.cat(list(sets))
    kernel = _kernel(rows)
    shares = [rows.new_full((1, len(x)), 1 / len(x)) for x in sets]
    share: Tensor = torch.block_diag(*shares)  # type: ignore[no-untyped-call]
    means = share @ kernel @ share.T
    # With K_ij the mean kernel between sets i and j, a pair's discrepancy is K_ii + K_jj - 2 K_ij.
    own, count = means.trace(), len(sets)
    return 2 * (own / count - (means.sum() - own) / (count * (count - 1)))


def _kernel(rows: Tensor) -> Tensor:
    """Compute the sum of the kernels between all rows (N, N)."""
    # Distances don't depend on the origin, but their rounding does; at gamma = 1000 it counts.
    rows = rows - rows.detach().mean(dim=0)
    norms = rows.square().sum(dim=1)
    distances = (norms[:, None] + norms - 2 * rows @ rows.T).clamp_min(0)
    # A row's distance to itself is 0 exactly, which the rounded difference above may miss.
    distances = distances.masked_fill(torch.eye(len(rows), dtype=torch.bool, device=rows.device), 0)
    return torch.stack([torch.exp(-gamma * distances) for gamma in GAMMAS]).sum(dim=0)
