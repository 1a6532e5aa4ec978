"""Compare models by their predictions and representations, and domains by the gradients of their losses."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Right = NDArray[np.bool_]
"""(N,): whether a model predicts the label of each of N examples."""


def disagreement(one: NDArray[np.int64], other: NDArray[np.int64]) -> float:
    """Return the share of examples that two models put into different classes (N,)."""
    return float(np.mean(one != other))


def ratio_error(one: Right, other: Right) -> float:
    """Return how many examples just one of two models gets wrong, for each that both do (Aksela, 2003).

    Infinite where both are never wrong together but one is; NaN where neither is.
    """
    single, both = int(np.sum(one != other)), int(np.sum(~one & ~other))
    return single / both if both else (math.inf if single else math.nan)


def q_statistic(one: Right, other: Right) -> float:
    """Return Yule's Q of two models: 0 if their errors are independent, 1 if they err alike, -1 if never together.

    NaN where the products of agreements and of disagreements are both 0.
    """
    alike = int(np.sum(one & other)) * int(np.sum(~one & ~other))
    apart = int(np.sum(one & ~other)) * int(np.sum(~one & other))
    return (alike - apart) / (alike + apart) if alike + apart else math.nan


def linear_cka(one: Tensor, other: Tensor) -> float:
    """Return the linear centered kernel alignment of two representations of the same examples.

    1 where they differ by a rotation and a scale (Kornblith et al., ICML 2019).

    Args:
        one: Features (N, D).
        other: Features (N, E) of the same examples in the same order.

    Returns:
        A number from 0 to 1; NaN where the features of one don't vary.
    """
    a, b = (x.double() - x.double().mean(dim=0) for x in (one, other))
    # Through products of examples where there are fewer of them than of features: the numbers are the same.
    if len(a) < max(a.shape[1], b.shape[1]):
        k, m = a @ a.T, b @ b.T
        shared, own = (k * m).sum(), k.norm() * m.norm()
    else:
        shared, own = (a.T @ b).square().sum(), (a.T @ a).norm() * (b.T @ b).norm()
    return float(shared / own) if float(own) > 0 else math.nan


def gradient_cosines(gradients: Tensor) -> tuple[Tensor, Tensor]:
    """Return the inner products and the cosines (D, D) of the gradients (D, size) of D domains."""
    products = gradients @ gradients.T
    lengths = products.diagonal().sqrt()
    return products, products / torch.outer(lengths, lengths)


def gradient_coherence(gradients: Tensor) -> float:
    """Return the squared length of the mean gradient over the mean squared length.

    1 where all agree, 1/D where D gradients are orthogonal, 0 where they cancel.

    Args:
        gradients: (D, size), one a domain.
    """
    return float(gradients.mean(dim=0).square().sum() / gradients.square().sum(dim=1).mean())


def mean_over_pairs(values: Sequence[Sequence[float]]) -> float:
    """Return the mean above the diagonal of a square table; NaN for fewer than two rows."""
    pairs = [values[i][j] for i in range(len(values)) for j in range(i)]
    return float(np.mean(pairs)) if pairs else math.nan


def mean_of_finite(values: Sequence[float]) -> float:
    """Return the mean of those values that are finite; NaN if none is."""
    finite = [value for value in values if math.isfinite(value)]
    return float(np.mean(finite)) if finite else math.nan
