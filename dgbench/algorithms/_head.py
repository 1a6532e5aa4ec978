"""Derivatives by the classifier's parameters, an example at a time, that need no pass through the featurizer.

An example's gradient by a linear layer is the outer product of the gradient by the layer's outputs and its inputs.
Sums of such products, and of their squares, are matrix products: nothing of the size (examples, parameters) is made.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from dgbench.core.errors import UserError
from dgbench.networks.network import Network

_NO_LABEL = -100


class Layer(NamedTuple):
    """What a linear layer of the classifier saw (B, n), and each example's gradient by its outputs (B, m).

    Of an example's cross-entropy, `slopes[i] outer inputs[i]` is the gradient by the weight, `slopes[i]` by the bias.
    """

    inputs: Tensor
    slopes: Tensor

    def rows(self, start: int, end: int) -> Layer:
        """The same of some examples."""
        return Layer(self.inputs[start:end], self.slopes[start:end])


class Moments(NamedTuple):
    """Over examples, of the gradient by each parameter of the classifier in their order: E[g] and E[g^2], flat."""

    means: list[Tensor]
    squares: list[Tensor]


def linear_head(network: Network, who: str) -> nn.Linear:
    """The classifier; raises `UserError` if it is not linear."""
    if not isinstance(network.classifier, nn.Linear):
        raise UserError(f"{who} needs a linear classifier: leave nonlinear_classifier off")
    return network.classifier


def per_example(classifier: nn.Module, features: Tensor, labels: Tensor) -> tuple[Tensor, list[Layer]]:
    """Logits (B, classes), and the gradient of each example's own cross-entropy; all differentiable."""
    modules: Iterable[nn.Module] = [classifier] if isinstance(classifier, nn.Linear) else classifier.children()
    x, inputs, outputs = features, list[Tensor](), list[Tensor]()
    for module in modules:
        y: Tensor = module(x)
        if isinstance(module, nn.Linear):
            inputs.append(x)
            outputs.append(y)
        x = y
    # The sum's gradient by an example's outputs is that of the example's own loss.
    slopes = torch.autograd.grad(F.cross_entropy(x, labels, reduction="sum"), outputs, create_graph=True)
    return x, [Layer(z, slope) for z, slope in zip(inputs, slopes, strict=True)]


def moments(layers: Iterable[Layer]) -> Moments:
    """Mean and mean square over the examples."""
    means, squares = list[Tensor](), list[Tensor]()
    for inputs, slopes in layers:
        means += [(slopes.T @ inputs / len(inputs)).flatten(), slopes.mean(dim=0)]
        squares += [(slopes.square().T @ inputs.square() / len(inputs)).flatten(), slopes.square().mean(dim=0)]
    return Moments(means, squares)


def hessian_diagonal(head: nn.Linear, features: Tensor, weights: Tensor) -> Tensor:
    """The diagonal of the Hessian of `sum_i weights_i CE_i` by the parameters of a linear head (P,): weight, bias.

    It is p (1 - p) z^2, which no label enters.
    """
    p = head(features).softmax(dim=1)
    curvature = p * (1 - p) * weights[:, None]
    return torch.cat([(curvature.T @ features.square()).flatten(), curvature.sum(dim=0)])


def hessian_products(head: nn.Linear, features: Sequence[Tensor], probes: Tensor) -> Tensor:
    """Each domain's Hessian, of its mean cross-entropy by the parameters of a linear head, times its probes (K, E, P).

    A probe moves an example's logits by v; the gradient by them then moves by p * (v - p.v), p the softmax. Domains may
    differ in size.
    """
    classes, width = head.weight.shape
    z = pad_sequence(list(features), batch_first=True)
    weights = pad_sequence([x.new_full((len(x),), 1 / len(x)) for x in features], batch_first=True)
    p = head(z).softmax(dim=2)
    by_weight = probes[..., : classes * width].reshape(*probes.shape[:2], classes, width)
    v = torch.einsum("end,kecd->kenc", z, by_weight) + probes[:, :, None, classes * width :]
    moved = p * (v - (p * v).sum(dim=3, keepdim=True)) * weights[:, :, None]
    return torch.cat([torch.einsum("kenc,end->kecd", moved, z).flatten(2), moved.sum(dim=2)], dim=2)


def losses_by_copies(
    head: nn.Module, features: Sequence[Tensor], labels: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Mean cross-entropy of each domain (E,) by a copy of the classifier of its own, and those copies (E, ...).

    One derivative by the copies is the derivative of every domain. Domains may differ in size.
    """
    copies = {name: p.expand(len(features), *p.shape) for name, p in head.named_parameters()}
    z, y = pad_sequence(list(features), batch_first=True), pad_sequence(list(labels), True, _NO_LABEL)
    logits = vmap(lambda copy, x: functional_call(head, copy, (x,)))(copies, z)
    losses = F.cross_entropy(logits.flatten(0, 1), y.flatten(), ignore_index=_NO_LABEL, reduction="none")
    return losses.view(y.shape).sum(dim=1) / (y != _NO_LABEL).sum(dim=1), list(copies.values())


def derivative(scalar: Tensor, copies: list[Tensor]) -> Tensor:
    """By all parameters of each domain's classifier (E, P), differentiable."""
    return torch.cat([g.flatten(1) for g in torch.autograd.grad(scalar, copies, create_graph=True)], dim=1)
