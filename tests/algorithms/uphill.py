"""Naive counterparts for the tests of methods that look at the gradient uphill: copies of networks, plain loops."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dgbench.methods.algorithm import Algorithm
from dgbench.methods.batch import Batch

Loss = Callable[[nn.Module], Tensor]


def erm(batches: Sequence[Batch]) -> Loss:
    x, y = torch.cat([b.x for b in batches]), torch.cat([b.y for b in batches])
    return lambda network: F.cross_entropy(network(x), y)


def gradient_of(network: nn.Module, loss: Loss) -> list[Tensor]:
    """At the network itself, whose batch norm takes note."""
    network.zero_grad()
    loss(network).backward()
    return [p.grad.clone() for p in network.parameters()]


def gradient_at(network: nn.Module, loss: Loss, by: list[Tensor]) -> list[Tensor]:
    """At a displaced copy, which is thrown away with all that its batch norm noted."""
    moved = copy.deepcopy(network)
    with torch.no_grad():
        for p, d in zip(moved.parameters(), by, strict=True):
            p.copy_(p + d)
    return gradient_of(moved, loss)


def ascended(losses: list[float]) -> dict[str, float]:
    """What SAM and its kin log: the loss before all, and how much higher the last one is that they look at."""
    return {"loss": losses[0], "sharpness": losses[-1] - losses[0]}


def norm_of(tensors: list[Tensor]) -> Tensor:
    return sum((t**2).sum() for t in tensors).sqrt()


def times(factor: Any, tensors: list[Tensor]) -> list[Tensor]:
    return [factor * t for t in tensors]


def plus(*terms: list[Tensor]) -> list[Tensor]:
    return [sum(parts) for parts in zip(*terms, strict=True)]


def flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([t.reshape(-1) for t in tensors])


def step(other: Any, gradients: list[Tensor]) -> None:
    for p, g in zip(other.network.parameters(), gradients, strict=True):
        p.grad = g
    other.optimizer.step()


def displacements(algorithm: Algorithm, batches: Sequence[Batch]) -> list[list[Tensor]]:
    """Where each pass of one update looks, relative to the first."""
    seen: list[list[Tensor]] = []
    hook = algorithm.network.register_forward_pre_hook(
        lambda network, _: seen.append([p.detach().clone() for p in network.parameters()])
    )
    algorithm.update(batches)
    hook.remove()
    return [[q - p for q, p in zip(later, seen[0], strict=True)] for later in seen[1:]]


def same(one: Algorithm, other: Algorithm, tolerance: float = 1e-12) -> None:
    for p, q in zip(one.network.parameters(), other.network.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=tolerance)


def train_alike(toy: Any, one: Algorithm, other: Algorithm, tolerance: float = 1e-12) -> None:
    """Both take the same three steps, and end at the same weights."""
    for number in range(3):
        toy.take(one, number)
        toy.take(other, number)
        same(one, other, tolerance)
