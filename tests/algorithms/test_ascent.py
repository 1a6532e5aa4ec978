from __future__ import annotations

import torch
from torch import nn

from dgbench.algorithms._ascent import displaced, global_norm, gradient, of_length


def test_norm_is_that_of_one_vector() -> None:
    tensors = [torch.tensor([[3.0, 0.0]]), torch.tensor([4.0]), torch.tensor(12.0)]
    assert global_norm(tensors).item() == 13.0


def test_of_length_scales_all_tensors_by_one_factor() -> None:
    first, second = of_length([torch.tensor([3.0]), torch.tensor([4.0])], 10.0)
    torch.testing.assert_close(torch.cat([first, second]), torch.tensor([6.0, 8.0]))
    (nothing,) = of_length([torch.zeros(2)], 10.0)
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
        with displaced(norm, [norm.weight], [torch.zeros_like(norm.weight)]):
            torch.testing.assert_close(norm(x).mean(0), torch.zeros(2))
        assert all(torch.equal(tensor, before[name]) for name, tensor in norm.state_dict().items())
        norm(x)
        assert norm.num_batches_tracked.item() == 1


def test_displaced_batch_norm_in_eval_mode_keeps_using_its_statistics() -> None:
    norm = nn.BatchNorm1d(1).eval()
    x = torch.tensor([[5.0], [7.0]])
    expected = norm(x)
    with displaced(norm, [norm.weight], [torch.zeros_like(norm.weight)]):
        torch.testing.assert_close(norm(x), expected)
