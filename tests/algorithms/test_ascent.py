from __future__ import annotations

import pytest
import torch
from torch import nn

from dgbench.methods.ascent import (
    adaptive_scales,
    clip_to_radius,
    displaced_parameters,
    global_norm,
    gradient,
    orthogonal_part,
    scale_to_adaptive_length,
    scale_to_length,
)


def test_norm_is_that_of_one_vector() -> None:
    tensors = [torch.tensor([[3.0, 0.0]]), torch.tensor([4.0]), torch.tensor(12.0)]
    assert global_norm(tensors).item() == 13.0


def test_of_length_scales_all_tensors_by_one_factor() -> None:
    first, second = scale_to_length([torch.tensor([3.0]), torch.tensor([4.0])], 10.0)
    torch.testing.assert_close(torch.cat([first, second]), torch.tensor([6.0, 8.0]))
    (nothing,) = scale_to_length([torch.zeros(2)], 10.0)
    assert torch.equal(nothing, torch.zeros(2))


def test_gradient_leaves_grad_alone_and_names_what_is_used() -> None:
    used, unused = nn.Parameter(torch.tensor([2.0])), nn.Parameter(torch.tensor([2.0]))
    parameters, gradients = gradient((used**2).sum(), [unused, used])
    assert parameters == [used]
    assert gradients == [torch.tensor([4.0])]
    assert used.grad is None


def test_displaced_batch_norm_normalises_by_the_batch() -> None:
    for momentum in (0.1, None):
        norm = nn.BatchNorm1d(2, momentum=momentum).train()
        x = torch.tensor([[0.0, 5.0], [2.0, 9.0]])
        before = {name: tensor.clone() for name, tensor in norm.state_dict().items()}
        with displaced_parameters(norm, [norm.weight], [torch.zeros_like(norm.weight)]):
            torch.testing.assert_close(norm(x).mean(0), torch.zeros(2))
        assert all(torch.equal(tensor, before[name]) for name, tensor in norm.state_dict().items())
        norm(x)
        assert norm.num_batches_tracked.item() == 1


def test_displaced_batch_norm_in_eval_mode_keeps_using_its_statistics() -> None:
    norm = nn.BatchNorm1d(1).eval()
    x = torch.tensor([[5.0], [7.0]])
    expected = norm(x)
    with displaced_parameters(norm, [norm.weight], [torch.zeros_like(norm.weight)]):
        torch.testing.assert_close(norm(x), expected)


def test_of_adaptive_length_has_that_length_once_the_scales_are_divided_out() -> None:
    tensors, scales = [torch.tensor([3.0, -1.0]), torch.tensor([2.0])], [torch.tensor([0.5, 2.0]), torch.tensor([4.0])]
    by = scale_to_adaptive_length(tensors, scales, 10.0)
    divided = torch.cat([d / t for d, t in zip(by, scales, strict=True)])
    assert divided.norm().item() == pytest.approx(10)
    plain = torch.cat([t**2 * v for v, t in zip(tensors, scales, strict=True)])
    torch.testing.assert_close(torch.cat(by) / plain, (torch.cat(by) / plain)[0].expand(3))


def test_adaptive_scales_are_of_what_is_called_weight() -> None:
    module = nn.BatchNorm1d(2)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([-3.0, 0.0]))
        module.bias.fill_(7.0)
    weight, bias = adaptive_scales(module, [module.weight, module.bias], 0.5)
    assert weight.tolist() == [3.5, 0.5]
    assert bias.tolist() == [1.0, 1.0]


def test_orthogonal_takes_the_part_along_away() -> None:
    (first, second) = orthogonal_part(
        [torch.tensor([1.0, 2.0]), torch.tensor([3.0])], [torch.zeros(2), torch.tensor([5.0])]
    )
    torch.testing.assert_close(torch.cat([first, second]), torch.tensor([1.0, 2.0, 0.0]), rtol=0, atol=1e-11)
    (whole,) = orthogonal_part([torch.tensor([1.0, 2.0])], to=[torch.zeros(2)])
    assert whole.tolist() == [1.0, 2.0]


def test_within_ball_shortens_what_is_too_long() -> None:
    tensors = [torch.tensor([3.0, 4.0]), torch.tensor([0.1])]
    long, short = clip_to_radius(tensors, 0.5, each=True)
    torch.testing.assert_close(torch.cat([long, short]), torch.tensor([0.3, 0.4, 0.1]))
    together = torch.cat(clip_to_radius(tensors, 0.5, each=False))
    torch.testing.assert_close(together, 0.5 * torch.cat(tensors) / torch.cat(tensors).norm())
    assert torch.equal(torch.cat(clip_to_radius(tensors, 6.0, each=False)), torch.cat(tensors))
    assert torch.cat(clip_to_radius(tensors, 0.0, each=True)).tolist() == [0.0, 0.0, 0.0]
