from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dgbench.algorithms._head import (
    derivative,
    hessian_diagonal,
    linear_head,
    losses_by_copies,
    moments,
    per_example,
)
from dgbench.core.errors import UserError
from dgbench.core.setting import setting
from dgbench.networks.builtin import classifier
from dgbench.networks.network import Network


def example_gradients(head: nn.Module, z: Tensor, y: Tensor) -> list[Tensor]:
    """(B, P) for each parameter, an example at a time."""
    losses = [F.cross_entropy(head(z[i : i + 1]), y[i : i + 1]) for i in range(len(y))]
    rows = [torch.autograd.grad(loss, list(head.parameters()), create_graph=True) for loss in losses]
    return [torch.stack([g.flatten() for g in column]) for column in zip(*rows, strict=True)]


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(6, 8, requires_grad=True), torch.tensor([0, 2, 1, 2, 2, 0])


@pytest.mark.parametrize("nonlinear", [False, True])
def test_moments_are_those_of_the_examples_gradients(data: tuple[Tensor, Tensor], nonlinear: bool) -> None:
    z, y = data
    head = classifier(8, 3, nonlinear=nonlinear)
    logits, layers = per_example(head, z, y)
    torch.testing.assert_close(logits, head(z), rtol=0, atol=1e-14)
    found = moments(layers)
    expected = example_gradients(head, z, y)
    for mean, square, g in zip(found.means, found.squares, expected, strict=True):
        torch.testing.assert_close(mean, g.mean(0), rtol=0, atol=1e-14)
        torch.testing.assert_close(square, g.square().mean(0), rtol=0, atol=1e-14)
    ours = torch.autograd.grad(torch.cat(found.squares).square().sum(), [z, *head.parameters()], retain_graph=True)
    theirs = torch.autograd.grad(
        torch.cat([g.square().mean(0) for g in expected]).square().sum(), [z, *head.parameters()]
    )
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_a_linear_heads_slopes_are_p_minus_y(data: tuple[Tensor, Tensor]) -> None:
    z, y = data
    head = nn.Linear(8, 3)
    _, [layer] = per_example(head, z, y)
    torch.testing.assert_close(layer.slopes, head(z).softmax(1) - F.one_hot(y, 3), rtol=0, atol=1e-14)
    part = layer.rows(2, 5)
    assert torch.equal(part.inputs, z[2:5])
    assert torch.equal(part.slopes, layer.slopes[2:5])


def test_the_hessians_diagonal_of_a_linear_head(data: tuple[Tensor, Tensor]) -> None:
    z, y = data
    head = nn.Linear(8, 3)
    weights = torch.rand(6)

    def loss(theta: Tensor) -> Tensor:
        logits = z.detach() @ theta[:24].view(3, 8).T + theta[24:]
        return (weights * F.cross_entropy(logits, y, reduction="none")).sum()

    whole = torch.autograd.functional.hessian(loss, nn.utils.parameters_to_vector(head.parameters()).detach())
    torch.testing.assert_close(hessian_diagonal(head, z, weights), whole.diagonal(), rtol=0, atol=1e-13)


def test_a_nonlinear_head_is_refused() -> None:
    network = Network(nn.Identity(), 8, 3, setting(nonlinear_classifier=True))
    with pytest.raises(UserError, match=r"Method needs a linear classifier: leave nonlinear_classifier off"):
        linear_head(network, "Method")


@pytest.mark.parametrize("sizes", [(6, 6, 6), (6, 4, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_linear_heads_copies_compute_what_those_of_any_module_compute(
    sizes: tuple[int, ...], dtype: torch.dtype
) -> None:
    """To the bit, with gradients of gradients: a sequence of one layer takes the way of all other classifiers."""
    torch.manual_seed(0)
    head = nn.Linear(8, 3, dtype=dtype)
    z = torch.randn(sum(sizes), 8, dtype=dtype, requires_grad=True)
    labels = torch.randint(3, (sum(sizes),)).split(sizes)

    def found(head: nn.Module) -> list[Tensor]:
        losses, copies = losses_by_copies(head, z.split(sizes), labels)
        products = derivative(derivative(losses.sum(), copies).square().sum() / 2, copies)
        return [losses, *torch.autograd.grad(products.square().sum(), [z, *head.parameters()])]

    assert all(torch.equal(one, other) for one, other in zip(found(head), found(nn.Sequential(head)), strict=True))
