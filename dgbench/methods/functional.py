"""Compute with weights that an algorithm does not hold: their Fisher information, and the symmetries of its network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeAlias

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from dgbench.methods.algorithm import Algorithm
from dgbench.methods.average import Weights
from dgbench.networks.network import Network
from dgbench.networks.permutations import Symmetry, find_symmetries

_Gradient: TypeAlias = Callable[[Weights, Tensor, Tensor], Weights]
"""Weights, inputs and labels -> gradients by name."""


def fisher_information(
    algorithm: Algorithm, weights: Mapping[str, Tensor], batches: Iterable[Tensor], generator: torch.Generator
) -> Weights:
    """Return, by parameter, the mean squared gradient of log p(y | x), y drawn from the predictions of `weights`.

    Frozen parameters are included, as those that follow others (an average of them, say) differ between models too.
    Gradients are computed in full precision whatever the setting.

    Args:
        algorithm: Computes logits; its own weights are not used. It is set to evaluation mode.
        weights: Name -> tensor, on the algorithm's device.
        batches: Inputs (B, ...), as the network takes them; the gradients of a batch's examples are held at once.
        generator: Draws y, on that device.
    """
    parameters = {name for name, _ in algorithm.eval().named_parameters()}
    moving = {name: tensor for name, tensor in weights.items() if name in parameters}
    fixed = {name: tensor for name, tensor in weights.items() if name not in parameters}

    def logits_of(moving: Weights, x: Tensor) -> Tensor:
        logits: Tensor = functional_call(algorithm, {**fixed, **moving}, (x,), tie_weights=False)
        return logits

    def loss(moving: Weights, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(logits_of(moving, x[None]), y[None])

    per_example = _per_example(grad(loss))
    total, count = {name: torch.zeros_like(tensor) for name, tensor in moving.items()}, 0
    with _in_full_precision(algorithm):
        for x in batches:
            with torch.no_grad():
                y = torch.multinomial(logits_of(moving, x).softmax(dim=1), 1, generator=generator).squeeze(1)
            # Squares of each example's gradient: the square of a batch's mean gradient would be another quantity.
            for name, gradient in per_example(moving, x, y).items():
                total[name] += gradient.square().sum(dim=0)
            count += len(x)
    return {name: square / count for name, square in total.items()}


def unit_symmetries(algorithm: Algorithm, x: Tensor) -> tuple[Symmetry, ...]:
    """Return the permutations of units under which an algorithm's predictions stay the same.

    Args:
        algorithm: The algorithm. It is set to evaluation mode.
        x: Inputs (B, ...), as the network takes them, on its device: their shape counts.

    Raises:
        UserError: The network has an operation whose symmetries are not known.
    """
    weights = {**dict(algorithm.eval().named_parameters()), **dict(algorithm.named_buffers())}

    def predict(weights: Weights, x: Tensor) -> Tensor:
        logits: Tensor = functional_call(algorithm, weights, (x,), tie_weights=False)
        return logits

    with _in_full_precision(algorithm):
        return find_symmetries(predict, weights, x)


def _per_example(gradient: _Gradient) -> _Gradient:
    """Return a function that computes a gradient for each example of a batch, stacked by name.

    Where the network has an operation that `vmap` does not know, such as one whose output's size depends on values,
    examples are passed one by one.
    """
    together = vmap(gradient, in_dims=(None, 0, 0))

    def compute(weights: Weights, x: Tensor, y: Tensor) -> Weights:
        try:
            return together(weights, x, y)
        except RuntimeError as error:
            if "vmap" not in str(error):
                raise
        each = [gradient(weights, *example) for example in zip(x, y, strict=True)]
        return {name: torch.stack([found[name] for found in each]) for name in weights}

    return compute


@contextmanager
def _in_full_precision(algorithm: Algorithm) -> Iterator[None]:
    """Switch an algorithm's networks to float32 for a while.

    Half precision would spoil squared gradients, and PyTorch has no half-precision batch norm for gradients by example.
    """
    networks = [module for module in algorithm.modules() if isinstance(module, Network)]
    before = [network.precision for network in networks]
    try:
        for network in networks:
            network.precision = "fp32"
        yield
    finally:
        for network, precision in zip(networks, before, strict=True):
            network.precision = precision
