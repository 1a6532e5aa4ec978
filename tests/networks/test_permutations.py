"""Permutations of units: those found change no output, and operations that are not known are refused."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.func import functional_call

from dgbench.core.errors import UserError
from dgbench.merging.git_re_basin import permuted
from dgbench.networks.builtin import mlp, mnist_cnn, small_cnn
from dgbench.networks.permutations import Symmetry, find_symmetries


class Residual(nn.Module):
    """A layer with the same units at both ends, beside itself."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner, self.last = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.last(x + torch.tanh(self.inner(x)))  # type: ignore[no-any-return]


class Joined(nn.Module):
    """Two layers side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other, self.last = nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.cat([self.one(x), self.other(x)], dim=1))  # type: ignore[no-any-return]


def headed(made: tuple[nn.Module, int]) -> nn.Module:
    return nn.Sequential(made[0], nn.Linear(made[1], 3))


NETWORKS = {
    "mlp": (lambda: headed(mlp(5, width=8)), (5,)),
    "mnist_cnn": (lambda: headed(mnist_cnn(1)), (1, 12, 12)),
    "small_cnn": (lambda: headed(small_cnn(3, 16)), (3, 16, 16)),
    "flattened": (
        lambda: nn.Sequential(
            *(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
            *(nn.Linear(54, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 3)),
        ),
        (2, 8, 8),
    ),
    "depthwise": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 6, 1), nn.Conv2d(6, 6, 3, groups=6), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2)
        ),
        (1, 5, 5),
    ),
    "residual": (Residual, (4,)),
    "resnet18": (lambda: timm.create_model("resnet18", num_classes=3), (3, 32, 32)),
}
EXPECTED = {
    "mlp": [(8, 1)] * 3,
    "mnist_cnn": [(64, 8), (128, 8), (128, 8), (128, 8)],
    "small_cnn": [(16, 8), (32, 8), (64, 8)],
    "flattened": [(6, 1), (8, 1)],
    "depthwise": [(6, 1)],
    "residual": [(6, 1)],
    "resnet18": [(64, 1)] * 3 + [(128, 1)] * 3 + [(256, 1)] * 3 + [(512, 1)] * 3,
}


def of(network: nn.Module, shape: tuple[int, ...]) -> tuple[tuple[Symmetry, ...], dict[str, Tensor], Tensor]:
    """A network's symmetries and weights in double precision, all of them random, and inputs."""
    network.double().eval()
    weights = {name: tensor.detach() for name, tensor in network.state_dict().items()}
    for tensor in weights.values():
        if tensor.is_floating_point() and tensor.dim() == 1:
            tensor.uniform_(0.5, 1.5)
    x = torch.randn(2, *shape, dtype=torch.float64)
    return find_symmetries(lambda w, x: functional_call(network, w, (x,)), weights, x), weights, x


@pytest.mark.parametrize("name", NETWORKS)
def test_permuted_units_change_no_output(name: str) -> None:
    torch.manual_seed(0)
    build, shape = NETWORKS[name]
    network = build()
    found, weights, x = of(network, shape)
    assert [(symmetry.size, symmetry.blocks) for symmetry in found] == EXPECTED[name]
    orders = []
    for symmetry in found:
        width = symmetry.size // symmetry.blocks
        blocks = torch.randperm(symmetry.blocks).tolist()
        orders.append(torch.cat([block * width + torch.randperm(width) for block in blocks]))
    other = permuted(found, orders, weights)
    for symmetry in found:
        for axis in symmetry.axes:
            assert weights[axis.tensor].shape == other[axis.tensor].shape
            assert not torch.equal(weights[axis.tensor], other[axis.tensor])
    before, after = (functional_call(network, tensors, (x,)) for tensors in (weights, other))
    torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-9)
    # Units of one symmetry alone, out of step with the next layer, would change outputs.
    broken = {**weights, found[0].axes[0].tensor: other[found[0].axes[0].tensor]}
    assert not torch.allclose(functional_call(network, broken, (x,)), before)


def test_groups_that_would_be_torn_apart_change_the_output() -> None:
    torch.manual_seed(0)
    network = headed(small_cnn(3, 8))
    (first, *others), weights, x = of(network, (3, 8, 8))
    torn = permuted([first, *others], [torch.arange(16).roll(1), *(torch.arange(o.size) for o in others)], weights)
    assert not torch.allclose(functional_call(network, torn, (x,)), functional_call(network, weights, (x,)))


@pytest.mark.parametrize(
    ("network", "shape", "operation"),
    [
        (Joined(), (4,), "cat"),
        (timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=3, depth=1), (3, 32, 32), "expand"),
    ],
)
def test_operations_that_are_not_known_are_refused(network: nn.Module, shape: tuple[int, ...], operation: str) -> None:
    with pytest.raises(UserError, match=f"not known, as it computes '{operation}'"):
        of(network, shape)
