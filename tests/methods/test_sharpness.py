from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dgbench.methods.sharpness import Norm, adaptive_scale, average_sharpness, step_sharpness, worst_sharpness
from dgbench.methods.surface import Surface

SIZE = 6
EIGENVALUES = torch.tensor([4.0, 2.0, 1.0, 0.5, 0.2, 0.1], dtype=torch.float64)


class Weights(nn.Module):
    """A network whose output is its weights, so that a loss can be any function of them."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(values.clone())

    def forward(self, x: Tensor) -> Tensor:
        return self.w.expand(len(x), -1)


def quadratic(weights: Tensor, center: Tensor) -> Surface:
    """Half the sum of eigenvalue times squared distance to the center."""

    def loss(outputs: Tensor, _: Tensor) -> Tensor:
        return 0.5 * ((outputs - center).square() * EIGENVALUES).sum()

    batch = (torch.zeros(3, 1, dtype=torch.float64), torch.zeros(3, dtype=torch.int64))
    return Surface(Weights(weights), [batch], loss)


def linear(weights: Tensor, slope: Tensor) -> Surface:
    batch = (torch.zeros(2, 1, dtype=torch.float64), torch.zeros(2, dtype=torch.int64))
    return Surface(Weights(weights), [batch], lambda outputs, _: (outputs * slope).sum())


WEIGHTS = torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0, -0.1], dtype=torch.float64)
SLOPE = torch.tensor([0.3, -1.0, 2.0, 5.0, 0.0, -0.7], dtype=torch.float64)
ONES = torch.ones(SIZE, dtype=torch.float64)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_random_moves_of_a_quadratic_cost_half_its_trace() -> None:
    surface, rho = quadratic(WEIGHTS, WEIGHTS), 0.1
    plain = average_sharpness(surface, rho, ONES, "l2", 1000, seeded())
    assert abs(plain.value - rho**2 / 2 * float(EIGENVALUES.sum())) < 4 * plain.error
    adaptive = average_sharpness(surface, rho, adaptive_scale(WEIGHTS), "l2", 1000, seeded())
    assert abs(adaptive.value - rho**2 / 2 * float((EIGENVALUES * WEIGHTS.square()).sum())) < 4 * adaptive.error
    # A uniform distribution has a third of its squared half-width as its variance.
    box = average_sharpness(surface, rho, ONES, "linf", 1000, seeded())
    assert abs(box.value - rho**2 / 6 * float(EIGENVALUES.sum())) < 4 * box.error
    assert plain.error < 0.1 * plain.value


def test_moves_with_their_opposites_do_not_see_the_slope() -> None:
    surface, rho = quadratic(WEIGHTS, WEIGHTS - 1.0), 0.1
    one, both = (
        average_sharpness(surface, rho, ONES, "l2", 200, seeded(), mirrored=mirrored) for mirrored in (False, True)
    )
    exact = rho**2 / 2 * float(EIGENVALUES.sum())
    assert abs(both.value - exact) < 4 * both.error
    assert both.error < 0.1 * one.error


@pytest.mark.parametrize("scale", [ONES, adaptive_scale(WEIGHTS)], ids=["plain", "adaptive"])
def test_the_worst_move_of_a_linear_loss_is_known(scale: Tensor) -> None:
    surface, rho = linear(WEIGHTS, SLOPE), 0.3
    assert worst_sharpness(surface, rho, scale, "linf", 5) == pytest.approx(rho * float((scale * SLOPE).abs().sum()))
    assert worst_sharpness(surface, rho, scale, "l2", 5) == pytest.approx(rho * float((scale * SLOPE).norm()))


def test_the_worst_move_away_from_the_center_of_a_quadratic_is_known() -> None:
    """On a ball it is a multiplier problem: (H - m) u = -g with |u| = rho, solved by bisection."""
    surface, rho = quadratic(WEIGHTS, WEIGHTS - 0.05), 0.5
    _, slope = surface.gradient()
    low, high = float(EIGENVALUES.max()) + 1e-9, 1e4
    for _ in range(200):
        middle = (low + high) / 2
        u = slope / (middle - EIGENVALUES)
        low, high = (middle, high) if float(u.norm()) > rho else (low, middle)
    expected = float(slope @ u + 0.5 * (EIGENVALUES * u.square()).sum())
    assert worst_sharpness(surface, rho, ONES, "l2", 60) == pytest.approx(expected, rel=1e-3)


def test_a_step_of_sam_on_a_linear_loss() -> None:
    assert step_sharpness(linear(WEIGHTS, SLOPE), 0.05) == pytest.approx(0.05 * float(SLOPE.norm()))


def two_layers(factor: float) -> Surface:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False)).double()
    with torch.no_grad():
        network[0].weight.mul_(factor)
        network[2].weight.div_(factor)
    generator = seeded(5)
    x = torch.randn(40, 4, generator=generator, dtype=torch.float64)
    return Surface(network, [(x, torch.randint(3, (40,), generator=generator))])


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_adaptive_sharpness_does_not_see_layers_rescaled_and_plain_does(norm: str) -> None:
    one, other = two_layers(1.0), two_layers(7.0)
    assert one.loss() == pytest.approx(other.loss())

    def worst(surface: Surface, adaptive: bool) -> float:
        scale = adaptive_scale(surface.origin) if adaptive else torch.ones_like(surface.origin)
        return worst_sharpness(surface, 0.1, scale, norm, 20)  # type: ignore[arg-type]

    def average(surface: Surface, adaptive: bool) -> float:
        scale = adaptive_scale(surface.origin) if adaptive else torch.ones_like(surface.origin)
        return average_sharpness(surface, 0.3, scale, norm, 20, seeded()).value  # type: ignore[arg-type]

    for measure in (worst, average):
        assert measure(one, True) == pytest.approx(measure(other, True), rel=1e-6)
        assert measure(one, False) != pytest.approx(measure(other, False), rel=0.1)


def test_weights_of_zero_do_not_spoil_the_adaptive_ball() -> None:
    surface = linear(torch.zeros(SIZE, dtype=torch.float64), SLOPE)
    assert worst_sharpness(surface, 0.3, adaptive_scale(surface.origin), "l2", 5) == 0


class Counted(Surface):
    """A surface that counts the gradients taken of it."""

    taken = 0

    def gradient(self, at: Tensor | None = None) -> tuple[float, Tensor]:
        self.taken += 1
        return super().gradient(at)


def test_searches_share_the_gradient_at_the_weights_and_find_what_they_find_alone() -> None:
    batches = [(torch.randn(9, 4, generator=seeded(), dtype=torch.float64), torch.arange(9) % 3)]
    network = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    shared = Counted(network, batches)
    scale = adaptive_scale(shared.origin)
    searches: list[tuple[float, Norm]] = [(0.5, "l2"), (0.05, "linf"), (0.3, "l2")]
    found = [worst_sharpness(shared, rho, scale, norm, 7) for rho, norm in searches] + [step_sharpness(shared, 0.05)]
    assert shared.taken == 1 + 3 * 6, "nor is one taken where a search ends"
    alone = [worst_sharpness(Surface(network, batches), rho, scale, norm, 7) for rho, norm in searches]
    assert found == pytest.approx([*alone, step_sharpness(Surface(network, batches), 0.05)], rel=1e-12)
    (x, y) = batches[0]
    ordered = Surface(network, [(x.flip(0), y.flip(0))])
    assert worst_sharpness(ordered, 0.5, scale, "l2", 7) == pytest.approx(found[0], rel=1e-12)


class TwoLayers(nn.Module):
    """A network whose output is its weights: a matrix of two, a norm of one, a matrix of three with its bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(2, 1, bias=False), nn.LayerNorm(1, bias=False), nn.Linear(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([p.flatten() for p in self.parameters()]).expand(len(x), -1)


def test_a_layer_moves_alone_and_layers_add_up() -> None:
    network = TwoLayers().double()
    batch = (torch.zeros(3, 1, dtype=torch.float64), torch.zeros(3, dtype=torch.int64))
    center = torch.cat([p.detach().flatten() for p in network.parameters()])

    def bowl(outputs: Tensor, _: Tensor) -> Tensor:
        return 0.5 * ((outputs - center).square() * EIGENVALUES).sum()

    surface = Surface(network, [batch], bowl)
    layers = surface.layers()
    assert {name: own.tolist() for name, own in layers.items()} == {
        "first": [1, 1, 0, 0, 0, 0],
        "last": [0] * 3 + [1] * 3,
    }
    rho, scale = 0.1, adaptive_scale(center)
    for own in layers.values():
        found = average_sharpness(surface, rho, scale * own, "l2", 500, seeded())
        exact = rho**2 / 2 * float((EIGENVALUES * (own * center).square()).sum())
        assert abs(found.value - exact) < 4 * found.error
    slope = Surface(network, [batch], lambda outputs, _: (outputs * SLOPE).sum())
    for own in layers.values():
        risen = step_sharpness(slope, 0.3, scale * own)
        assert risen == pytest.approx(0.3 * float((scale * own * SLOPE).norm()))
