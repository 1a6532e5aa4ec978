"""Estimate the spectrum of a symmetric operator that is known by its products with vectors alone.

Each estimate comes with its error. The Hessian of a loss is the operator meant (`surface.Surface.products`); tests hold
every function to matrices whose spectra are known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import eigh_tridiagonal
from scipy.stats import norm
from torch import Tensor

Products = Callable[[Tensor], Tensor]
"""Vectors (K, size) -> the operator's products with them (K, size)."""
_SPENT = 1e-10
"""Length, relative to the largest so far, at which a new Lanczos vector is rounding error: the space is exhausted."""


@dataclass(frozen=True)
class Estimate:
    """An estimated number and its error."""

    value: float
    error: float
    """A bound of the distance to an eigenvalue, or the standard error of a mean of random draws."""


@dataclass(frozen=True)
class Ritz:
    """The result of a Lanczos iteration: approximate eigenvalues, ascending."""

    values: NDArray[np.float64]
    """(steps,)."""
    weights: NDArray[np.float64]
    """(steps,); the squared share of each in the starting vector: they sum to 1."""
    errors: NDArray[np.float64]
    """(steps,); within each, around its value, lies an eigenvalue."""
    vectors: Tensor
    """(steps, size); the approximate eigenvectors, of length 1."""

    @property
    def top(self) -> Estimate:
        """Return the largest value with its error."""
        return Estimate(float(self.values[-1]), float(self.errors[-1]))


def lanczos(products: Products, start: Tensor, steps: int) -> Ritz:
    """Approximate eigenvalues by a Lanczos iteration with full re-orthogonalization.

    The extreme eigenvalues converge first, whatever their sign. Without re-orthogonalization rounding would bring
    copies of those that have converged.

    Args:
        products: The operator.
        start: The starting vector (size,), not zero.
        steps: Products to take; fewer are taken where the space is exhausted.

    Returns:
        As many approximate eigenvalues as products were taken.
    """
    basis = [start / start.norm()]
    diagonal, beside = list[float](), list[float]()
    while True:
        product = products(basis[-1][None])[0]
        diagonal.append(float(product @ basis[-1]))
        spanned = torch.stack(basis)
        # Twice: once leaves rounding errors that grow with the number of steps.
        for _ in range(2):
            product = product - spanned.T @ (spanned @ product)
        length = float(product.norm())
        largest = max(map(abs, (*diagonal, *beside)))
        if len(basis) == min(steps, len(start)) or length <= _SPENT * max(largest, 1e-300):
            break
        beside.append(length)
        basis.append(product / length)
    values, within = eigh_tridiagonal(np.array(diagonal), np.array(beside))
    vectors = torch.as_tensor(within.T, dtype=spanned.dtype, device=spanned.device) @ spanned
    return Ritz(values, within[0] ** 2, length * np.abs(within[-1]), vectors)


def top_eigenvalue(products: Products, size: int, steps: int, generator: torch.Generator, like: Tensor) -> Estimate:
    """Estimate the largest eigenvalue, not the largest magnitude.

    Args:
        products: The operator.
        size: Length of its vectors.
        steps: Lanczos steps.
        generator: Draws the starting vector.
        like: A tensor of the operator's type, on its device.
    """
    return lanczos(products, gaussian(1, size, generator, like)[0], steps).top


def trace(
    products: Products, size: int, draws: int, generator: torch.Generator, like: Tensor, together: int = 8
) -> Estimate:
    """Estimate the trace by Hutchinson's estimator, the mean of v'Hv over vectors v of random signs.

    Args:
        products: The operator.
        size: Length of its vectors.
        draws: Number of vectors, at least 2.
        generator: Draws them; how many are taken together doesn't change them.
        like: A tensor of the operator's type, on its device.
        together: Vectors in one call of `products`.

    Returns:
        The mean over the draws and its standard error.
    """
    found = list[float]()
    while len(found) < draws:
        count = min(together, draws - len(found))
        signs = random_signs(count, size, generator, like)
        found += (products(signs) * signs).sum(dim=1).tolist()
    return Estimate(float(np.mean(found)), float(np.std(found, ddof=1)) / math.sqrt(draws))


def spectral_norm(products: Products, size: int, steps: int, generator: torch.Generator, like: Tensor) -> Estimate:
    """Estimate the largest magnitude of an eigenvalue; arguments as of `top_eigenvalue`."""
    ritz = lanczos(products, gaussian(1, size, generator, like)[0], steps)
    largest = int(np.abs(ritz.values).argmax())
    return Estimate(float(abs(ritz.values[largest])), float(ritz.errors[largest]))


def frobenius_norm(moved: Tensor) -> Estimate:
    """Estimate the Frobenius norm of an operator A, by the mean of |Av|² over vectors v of independent unit variance.

    Args:
        moved: (draws, size), at least 2; products with vectors of random signs.

    Returns:
        The root of the mean, and its standard error to first order.
    """
    squares = moved.double().square().sum(dim=1)
    value = math.sqrt(float(squares.mean()))
    error = float(squares.std()) / math.sqrt(len(squares))
    return Estimate(value, error / (2 * value) if value else 0.0)


def spectral_density(
    products: Products, size: int, steps: int, draws: int, generator: torch.Generator, like: Tensor
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Approximate the distribution of the eigenvalues by stochastic Lanczos quadrature.

    Args:
        products: The operator.
        size: Length of its vectors.
        steps: Lanczos steps a draw: moments up to twice as many, less 1, are exact for its vector.
        draws: Random starting vectors.
        generator: Draws them.
        like: A tensor of the operator's type, on its device.

    Returns:
        Points (N,) ascending, and the share (N,) of eigenvalues at each; the shares sum to 1.
    """
    return joined([lanczos(products, gaussian(1, size, generator, like)[0], steps) for _ in range(draws)])


def joined(found: Sequence[Ritz]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the points (N,), ascending, and shares (N,) of `spectral_density` from iterations that were taken."""
    values = np.concatenate([ritz.values for ritz in found])
    weights = np.concatenate([ritz.weights for ritz in found]) / len(found)
    order = np.argsort(values, kind="stable")
    return values[order], weights[order]


def broadened(
    points: NDArray[np.float64], shares: NDArray[np.float64], count: int, width: float = 0.01
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a density over a grid, in which each point is a normal distribution.

    Args:
        points: (N,), ascending.
        shares: (N,), that sum to 1.
        count: Points of the grid.
        width: Standard deviation of the distributions, as a share of the range of the points.

    Returns:
        The grid (count,), and the density (count,), whose integral is 1.
    """
    deviation = width * (float(points[-1] - points[0]) or max(abs(float(points[0])), 1e-12))
    grid = np.linspace(points[0] - 4 * deviation, points[-1] + 4 * deviation, count)
    return grid, norm.pdf(grid[:, None], points[None], deviation) @ shares


def gaussian(count: int, size: int, generator: torch.Generator, like: Tensor) -> Tensor:
    """Draw vectors (count, size) of standard normal numbers, in double precision before they get the type of `like`."""
    drawn = [torch.randn(size, generator=generator, dtype=torch.float64, device=generator.device) for _ in range(count)]
    return torch.stack(drawn).to(like)


def random_signs(count: int, size: int, generator: torch.Generator, like: Tensor) -> Tensor:
    """Draw vectors (count, size) of 1 and -1, each as likely, of the type of `like`."""
    bits = [torch.randint(2, (size,), generator=generator, device=generator.device) for _ in range(count)]
    return (2 * torch.stack(bits) - 1).to(like)
