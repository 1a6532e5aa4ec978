"""Derivatives with respect to the classifier's parameters, by example or by domain, without the featurizer.

An example's gradient with respect to a linear layer's weight is the outer product of the gradient with respect to the
layer's outputs and the layer's inputs. Sums of such products, and of their squares, are matrix products, so nothing of
the size (examples, parameters) is ever made. P is the number of the classifier's parameters: those of the first weight,
row by row, then its bias, and so on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from dgbench.core.errors import UserError
from dgbench.networks.network import Network

_NO_LABEL = -100
"""Marks the padding of domains that are smaller than the largest; `cross_entropy` leaves it out."""


class Layer(NamedTuple):
    """A linear layer of the classifier: its inputs (B, n) and each example's gradient at its outputs (B, m).

    Of example i's own cross-entropy, the gradient with respect to the weight is the outer product of `slopes[i]` and
    `inputs[i]`, and with respect to the bias it is `slopes[i]`. Made by `per_example`.
    """

    inputs: Tensor
    slopes: Tensor

    def rows(self, start: int, end: int) -> Layer:
        """Return the layer as examples `start` to `end` see it."""
        return Layer(self.inputs[start:end], self.slopes[start:end])


class Moments(NamedTuple):
    """Mean and mean square, over examples, of the gradient with respect to each parameter of the classifier.

    `means` and `squares` hold a flat tensor for each weight and bias, in the order of the classifier's parameters.
    """

    means: list[Tensor]
    squares: list[Tensor]


def linear_head(network: Network, method: str) -> nn.Linear:
    """Return the network's classifier; raise `UserError` unless it is one linear layer.

    Args:
        network: The network to look at.
        method: Its name, for the message.
    """
    if not isinstance(network.classifier, nn.Linear):
        raise UserError(f"{method} needs a linear classifier: leave nonlinear_classifier off")
    return network.classifier


def per_example(classifier: nn.Module, features: Tensor, labels: Tensor) -> tuple[Tensor, list[Layer]]:
    """Compute the logits and, at each linear layer's outputs, the gradient of each example's own cross-entropy.

    Args:
        classifier: A linear layer, or modules that are applied in order.
        features: The classifier's inputs (B, num_features).
        labels: Classes (B,), int64.

    Returns:
        (logits, layers): logits (B, classes), and a `Layer` for each linear layer in order. All are differentiable.
    """
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
    """Compute mean and mean square of the examples' gradients, from the layers that `per_example` returns."""
    means, squares = list[Tensor](), list[Tensor]()
    for inputs, slopes in layers:
        # A squared outer product is the outer product of the squares, so E[g^2] is a matrix product as E[g] is.
        means += [(slopes.T @ inputs / len(inputs)).flatten(), slopes.mean(dim=0)]
        squares += [(slopes.square().T @ inputs.square() / len(inputs)).flatten(), slopes.square().mean(dim=0)]
    return Moments(means, squares)


def hessian_diagonal(head: nn.Linear, features: Tensor, weights: Tensor) -> Tensor:
    """Compute the diagonal of the Hessian of a weighted sum of cross-entropies, for a linear classifier.

    The Hessian is taken with respect to the classifier's parameters. The entry of class c and feature j is the weighted
    sum of p_c (1 - p_c) z_j^2, p the softmax: labels don't matter.

    Args:
        head: The classifier.
        features: Its inputs z (n, num_features).
        weights: The weight of each example's cross-entropy (n,).

    Returns:
        (P,): weight, then bias.
    """
    p = head(features).softmax(dim=1)
    curvature = p * (1 - p) * weights[:, None]
    return torch.cat([(curvature.T @ features.square()).flatten(), curvature.sum(dim=0)])


def hessian_products(head: nn.Linear, features: Sequence[Tensor], probes: Tensor) -> Tensor:
    """Multiply the Hessian of each domain's mean cross-entropy by vectors, for a linear classifier.

    The Hessian is taken with respect to the classifier's parameters. A probe moves an example's logits by v; the
    gradient at the logits then moves by p * (v - p.v), p the softmax.

    Args:
        head: The classifier.
        features: Its inputs (B, num_features) of each of E domains, which may differ in size.
        probes: (K, E, P), K vectors for each domain.

    Returns:
        The products (K, E, P).
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
    """Compute each domain's mean cross-entropy by a copy of the classifier that only this domain uses.

    As no two domains share a copy, one derivative of the sum of losses with respect to all copies holds the derivative
    of every domain.

    Args:
        head: The classifier.
        features: Its inputs (B, num_features) of each of E domains, which may differ in size.
        labels: Classes (B,) of each domain, int64.

    Returns:
        (losses, copies): losses (E,), and for each parameter its copies (E, *shape). The copies are views of the
        parameter, so that gradients reach it through them.
    """
    copies = {name: p.expand(len(features), *p.shape) for name, p in head.named_parameters()}
    z, y = pad_sequence(list(features), batch_first=True), pad_sequence(list(labels), True, _NO_LABEL)
    logits = _logits_of_copies(head, copies, z)
    losses = F.cross_entropy(logits.flatten(0, 1), y.flatten(), ignore_index=_NO_LABEL, reduction="none")
    return losses.view(y.shape).sum(dim=1) / (y != _NO_LABEL).sum(dim=1), list(copies.values())


def _logits_of_copies(head: nn.Module, copies: Mapping[str, Tensor], z: Tensor) -> Tensor:
    """Return the logits (E, B, classes) of inputs (E, B, num_features), each by its own copy (E, *shape)."""
    if isinstance(head, nn.Linear) and copies.keys() == {"weight", "bias"}:
        # To the bit what `vmap` computes, its derivatives too, without its way through every layer of PyTorch.
        return torch.bmm(z, copies["weight"].transpose(1, 2)) + copies["bias"][:, None]
    return vmap(lambda copy, x: functional_call(head, copy, (x,)))(copies, z)  # type: ignore[no-any-return]


def derivative(scalar: Tensor, copies: list[Tensor]) -> Tensor:
    """Differentiate a scalar with respect to each domain's copy of the classifier, (E, P); differentiable again."""
    return torch.cat([g.flatten(1) for g in torch.autograd.grad(scalar, copies, create_graph=True)], dim=1)
