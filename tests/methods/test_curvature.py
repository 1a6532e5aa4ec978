from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from dgbench.methods.curvature import (
    Estimate,
    broadened,
    frobenius_norm,
    gaussian,
    joined,
    lanczos,
    random_signs,
    spectral_density,
    spectral_norm,
    top_eigenvalue,
    trace,
)
from dgbench.methods.surface import Surface

ONE = torch.ones(1, dtype=torch.float64)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def symmetric(values: Tensor, seed: int = 1) -> Tensor:
    """A matrix with these eigenvalues."""
    rotation, _ = torch.linalg.qr(torch.randn(len(values), len(values), generator=seeded(seed), dtype=torch.float64))
    return rotation @ torch.diag(values) @ rotation.T


def small_network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 5)).double()


def examples(count: int = 30) -> tuple[Tensor, Tensor]:
    generator = seeded(4)
    x = torch.randn(count, 8, generator=generator, dtype=torch.float64)
    return x, torch.randint(5, (count,), generator=generator)


def full_hessian(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """By differentiating twice, without a surface."""
    shapes = {name: p.shape for name, p in network.named_parameters()}
    flat = torch.cat([p.detach().flatten() for p in network.parameters()])

    def loss(vector: Tensor) -> Tensor:
        parts = vector.split([shape.numel() for shape in shapes.values()])
        named = {name: part.view(shape) for part, (name, shape) in zip(parts, shapes.items(), strict=True)}
        return F.cross_entropy(torch.func.functional_call(network, named, (x,)), y)

    return torch.func.jacrev(torch.func.jacrev(loss))(flat)  # type: ignore[no-any-return]


def test_a_network_of_500_weights_has_the_spectrum_of_its_full_hessian() -> None:
    network, (x, y) = small_network(), examples()
    surface = Surface(network, [(x, y)])
    assert surface.size == 501
    hessian = full_hessian(network, x, y)
    eigenvalues = torch.linalg.eigvalsh(hessian)
    vectors = gaussian(3, surface.size, seeded(), ONE)
    torch.testing.assert_close(surface.products(vectors), vectors @ hessian, rtol=1e-10, atol=1e-12)
    top = top_eigenvalue(surface.products, surface.size, 60, seeded(), ONE)
    assert abs(top.value - eigenvalues[-1].item()) < 1e-6
    assert top.error < 1e-4
    # The trace, exactly: by all unit vectors in place of random signs.
    units = torch.eye(surface.size, dtype=torch.float64)
    assert abs(float((surface.products(units) * units).sum()) - float(eigenvalues.sum())) < 1e-6
    found = trace(surface.products, surface.size, 200, seeded(), ONE)
    assert abs(found.value - float(eigenvalues.sum())) < 4 * found.error
    spread = 2 * (hessian.square().sum() - hessian.diagonal().square().sum())
    assert found.error == pytest.approx(float(spread / 200) ** 0.5, rel=0.2)


def test_batches_change_nothing() -> None:
    network, (x, y) = small_network(), examples()
    whole = Surface(network, [(x, y)])
    split = Surface(network, list(zip(x.split([1, 9, 20]), y.split([1, 9, 20]), strict=True)))
    vectors = gaussian(2, whole.size, seeded(), ONE)
    assert split.loss() == pytest.approx(whole.loss(), rel=1e-12)
    assert split.correct() == whole.correct()
    torch.testing.assert_close(split.gradient()[1], whole.gradient()[1], rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(split.products(vectors), whole.products(vectors), rtol=1e-10, atol=1e-13)


def test_a_surface_holds_the_named_parameters_and_leaves_the_network_alone() -> None:
    network, (x, y) = small_network(), examples()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    surface = Surface(network, [(x, y)], parameters=["4.weight", "4.bias"])
    assert surface.size == 16 * 5 + 5
    assert surface.loss() == pytest.approx(F.cross_entropy(network(x), y).item(), rel=1e-12)
    hessian = full_hessian(network, x, y)[-85:, -85:]
    units = torch.eye(85, dtype=torch.float64)
    torch.testing.assert_close(surface.products(units), hessian, rtol=1e-9, atol=1e-12)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-10, 10), min_size=1, max_size=12), st.integers(0, 99))
def test_lanczos_through_the_whole_space_finds_every_eigenvalue(values: list[float], seed: int) -> None:
    expected = torch.tensor(values, dtype=torch.float64)
    matrix = symmetric(expected, seed)
    ritz = lanczos(lambda vectors: vectors @ matrix, gaussian(1, len(values), seeded(seed), ONE)[0], 50)
    # Copies of one eigenvalue are found once: a Krylov space holds one vector of each eigenspace.
    for value in ritz.values:
        assert min(abs(value - other) for other in values) < 1e-6
    assert ritz.values[-1] == pytest.approx(max(values), abs=1e-6)
    assert ritz.values[0] == pytest.approx(min(values), abs=1e-6)
    assert sum(ritz.weights) == pytest.approx(1)


def test_the_largest_is_not_the_largest_magnitude() -> None:
    matrix = symmetric(torch.tensor([2.0, -5.0, 1.0], dtype=torch.float64))
    assert top_eigenvalue(lambda v: v @ matrix, 3, 10, seeded(), ONE).value == pytest.approx(2)


def test_an_eigenvalue_lies_within_the_error_of_each_approximate_one() -> None:
    values = torch.linspace(0, 1, 60, dtype=torch.float64) ** 4
    matrix = symmetric(values)
    ritz = lanczos(lambda v: v @ matrix, gaussian(1, 60, seeded(), ONE)[0], 12)
    nearest = np.abs(ritz.values[:, None] - values.numpy()[None]).min(axis=1)
    assert (nearest <= ritz.errors + 1e-12).all()
    assert ritz.errors.max() > 1e-3, "twelve steps don't find sixty eigenvalues"
    residual = matrix @ ritz.vectors[-1] - ritz.values[-1] * ritz.vectors[-1]
    assert float(residual.norm()) == pytest.approx(ritz.errors[-1], abs=1e-9)


def test_random_signs_find_the_trace_of_a_diagonal_matrix_at_once() -> None:
    diagonal = torch.tensor([3.0, -1.0, 0.5, 8.0], dtype=torch.float64)
    found = trace(lambda v: v * diagonal, 4, 2, seeded(), ONE)
    assert found.value == pytest.approx(10.5)
    assert found.error == 0


def test_draws_do_not_depend_on_how_many_are_taken_together() -> None:
    matrix = symmetric(torch.arange(6, dtype=torch.float64))
    one, three = (trace(lambda v: v @ matrix, 6, 7, seeded(), ONE, together=n) for n in (1, 3))
    assert one.value == pytest.approx(three.value)


def test_quadrature_has_the_moments_of_the_spectrum() -> None:
    values = torch.linspace(-1, 3, 200, dtype=torch.float64)
    points, shares = spectral_density(lambda v: v * values, 200, 10, 60, seeded(), ONE)
    assert shares.sum() == pytest.approx(1)
    for power in (1, 2, 3):
        assert (shares * points**power).sum() == pytest.approx(float((values**power).mean()), rel=0.06)


def test_the_spectrum_of_a_network_has_the_moments_of_its_full_hessian() -> None:
    network, (x, y) = small_network(), examples()
    surface, hessian = Surface(network, [(x, y)]), full_hessian(network, x, y)
    start = gaussian(1, surface.size, seeded(), ONE)[0]
    points, shares = joined([lanczos(surface.products, start, 8)])
    vector = start / start.norm()
    for power in range(1, 6):
        moved = torch.linalg.matrix_power(hessian, power) @ vector
        assert (shares * points**power).sum() == pytest.approx(float(vector @ moved), abs=1e-6)


def test_a_broadened_density_has_integral_one_and_its_mass_at_the_points() -> None:
    points, shares = np.array([-1.0, 0.0, 9.0]), np.array([0.2, 0.7, 0.1])
    grid, density = broadened(points, shares, 4001)
    step = grid[1] - grid[0]
    assert density.sum() * step == pytest.approx(1, abs=1e-3)
    for point, share in zip(points, shares, strict=True):
        assert density[abs(grid - point) < 0.4].sum() * step == pytest.approx(share, abs=1e-3)
    one, only = broadened(np.array([0.0]), np.array([1.0]), 11)
    assert np.isfinite(only).all()
    assert len({*one}) == 11


def test_norms_of_a_difference_of_hessians_are_those_of_the_full_matrices() -> None:
    network, (x, y) = small_network(), examples(60)
    one, other = Surface(network, [(x[:25], y[:25])]), Surface(network, [(x[25:], y[25:])])
    difference = full_hessian(network, x[:25], y[:25]) - full_hessian(network, x[25:], y[25:])
    eigenvalues = torch.linalg.eigvalsh(difference)

    def products(vectors: Tensor) -> Tensor:
        return one.products(vectors) - other.products(vectors)

    spectral = spectral_norm(products, one.size, 60, seeded(), ONE)
    assert spectral.value == pytest.approx(float(eigenvalues.abs().max()), abs=1e-6)
    negative = spectral_norm(lambda v: -products(v), one.size, 60, seeded(), ONE)
    assert negative.value == pytest.approx(spectral.value, abs=1e-6)
    frobenius = float(difference.norm())
    found = frobenius_norm(products(random_signs(300, one.size, seeded(), ONE)))
    assert abs(found.value - frobenius) < 4 * found.error
    assert found.error < 0.1 * frobenius
    # Exactly, by vectors that are the axes of the space times the root of their number.
    axes = torch.eye(one.size, dtype=torch.float64) * one.size**0.5
    assert frobenius_norm(products(axes)).value == pytest.approx(frobenius, abs=1e-6)
    assert frobenius_norm(torch.zeros(3, 5)) == Estimate(0.0, 0.0)


def test_the_error_of_a_frobenius_norm_is_the_spread_of_its_estimates() -> None:
    matrix = symmetric(torch.tensor([5.0, 2.0, -1.0, 0.5, 0.0, 0.1], dtype=torch.float64))
    generator = seeded()
    found = [frobenius_norm(random_signs(50, 6, generator, ONE) @ matrix) for _ in range(300)]
    assert np.std([one.value for one in found]) == pytest.approx(np.mean([one.error for one in found]), rel=0.15)
    assert np.mean([one.value for one in found]) == pytest.approx(float(matrix.norm()), rel=0.02)
