from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from dgbench.algorithms._stages import batch_deviation, map_shapes, replace_stage_outputs, replace_style, style
from dgbench.algorithms.erm import ERM
from dgbench.core.errors import UserError


def test_outputs_are_replaced_in_order_and_none_keeps_them(toy: SimpleNamespace) -> None:
    network = toy.make(ERM, images=True).network
    x = torch.randn(3, 2, 6, 6)
    plain, seen = network(x), []

    def double_first(i: int, out: torch.Tensor) -> torch.Tensor | None:
        seen.append((i, out.clone()))
        return 2 * out if i == 0 else None

    with replace_stage_outputs(network, double_first):
        changed = network(x)
    assert [i for i, _ in seen] == [0, 1]
    first = network.stages[0]
    position = list(network.featurizer).index(first)
    by_hand = 2 * network.featurizer[: position + 1](x)
    expected = network.classifier(network.featurizer[position + 1 :](by_hand))
    torch.testing.assert_close(changed, expected, rtol=0, atol=1e-15)
    assert not torch.equal(changed, plain)
    assert torch.equal(network(x), plain)
    assert len(seen) == 2


def test_hooks_are_removed_after_an_error(toy: SimpleNamespace) -> None:
    network = toy.make(ERM, images=True).network

    def fails(i: int, out: torch.Tensor) -> None:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"), replace_stage_outputs(network, fails):
        network(torch.randn(1, 2, 6, 6))
    network(torch.randn(1, 2, 6, 6))
    assert not any(stage._forward_hooks for stage in network.stages)


def test_shapes_are_found_without_a_trace(toy: SimpleNamespace) -> None:
    algorithm = toy.make(ERM, images=True, norm="live")
    before = {name: tensor.clone() for name, tensor in algorithm.state_dict().items()}
    assert map_shapes(algorithm.network, (2, 6, 6), "It") == [(4, 4, 4), (8, 2, 2)]
    assert all(torch.equal(before[name], tensor) for name, tensor in algorithm.state_dict().items())
    assert algorithm.network.training
    assert algorithm.network.featurizer[1].training


def test_vectors_are_refused_in_the_users_words(toy: SimpleNamespace) -> None:
    with pytest.raises(UserError, match=r"DSU works on feature maps.*stage 0 of this network gives 8 an example"):
        map_shapes(toy.make(ERM).network, (6,), "DSU")


def test_style_and_spread() -> None:
    x = torch.randn(5, 3, 4, 2)
    mean, std = style(x)
    flat = x.flatten(2)
    torch.testing.assert_close(mean.flatten(1), flat.sum(2) / 8)
    torch.testing.assert_close(std.flatten(1), (((flat - mean.flatten(2)) ** 2).sum(2) / 7 + 1e-6).sqrt())
    centred = mean - mean.mean(0, keepdim=True)
    torch.testing.assert_close(batch_deviation(mean), ((centred**2).sum(0, keepdim=True) / 4 + 1e-6).sqrt())
    torch.testing.assert_close(replace_style(x, (mean, std), (mean, std)), x, rtol=0, atol=1e-14)
    new_mean, new_std = style(replace_style(x, (mean, std), (mean + 1, 2 * std)))
    torch.testing.assert_close(new_mean, mean + 1)
    torch.testing.assert_close(new_std, 2 * std, rtol=1e-5, atol=0)


def test_derivatives_of_the_style() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 3, 2, requires_grad=True)
    assert torch.autograd.gradcheck(style, (x,))
    direction = torch.randn(2, 2, 3, 1, 1)
    sum((part * d).sum() for part, d in zip(style(x), direction, strict=True)).backward()
    by_autograd = torch.autograd.grad(
        (x.mean((2, 3), keepdim=True) * direction[0]).sum()
        + ((x.var((2, 3), keepdim=True) + 1e-6).sqrt() * direction[1]).sum(),
        x,
    )
    torch.testing.assert_close(x.grad, by_autograd[0], rtol=0, atol=1e-14)


def test_half_precision_keeps_its_type_and_its_statistics() -> None:
    x = (1 + 1e-2 * torch.randn(2, 3, 16, 16)).to(torch.bfloat16)
    mean, std = style(x)
    assert mean.dtype == std.dtype == torch.float32
    torch.testing.assert_close(mean, x.double().mean((2, 3), keepdim=True).float())
    assert replace_style(x, (mean, std), (mean, std)).dtype == torch.bfloat16
