"""Mix the weights of models, and score a network with any weights: what lines and planes between models are made of.

Statistics of batch norm that is live are measured afresh for each mixture, as mergers do: the mean of two models'
statistics is not that of their mean.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dgbench.methods.average import Weights
from dgbench.methods.surface import Loss, summed_cross_entropy


@torch.no_grad()
def scores_of(
    network: nn.Module,
    weights: Mapping[str, Tensor],
    batches: Sequence[tuple[Tensor, Tensor]],
    loss: Loss = summed_cross_entropy,
) -> tuple[float, float]:
    """Return the mean loss and the accuracy of a network with given weights, in one pass.

    Args:
        network: In evaluation mode: inputs (B, ...) to logits (B, classes). Its own weights don't change.
        weights: Name in `network` -> tensor that takes the place of its own; others stay.
        batches: Inputs and labels.
        loss: Sums the losses of a batch.
    """
    total, right, examples = 0.0, 0, 0
    for x, y in batches:
        logits: Tensor = functional_call(network, dict(weights), (x,), tie_weights=False)
        total += float(loss(logits, y))
        right += int((logits.argmax(dim=1) == y).sum())
        examples += len(y)
    return total / examples, right / examples


@torch.no_grad()
def combined(ends: Sequence[Weights], shares: Sequence[float], only: Collection[str] | None = None) -> Weights:
    """Return a linear combination of weights, exact where one share is 1 and the others 0.

    Args:
        ends: Weights of several models with the same names and shapes.
        shares: The factor of each.
        only: Names that are combined; the other tensors are those of the first. None: all.

    Returns:
        The combination; integers are those of the first.
    """
    found: Weights = {}
    used = [(end, share) for end, share in zip(ends, shares, strict=True) if share]
    for name, first in ends[0].items():
        mixes = first.is_floating_point() and (only is None or name in only)
        found[name] = torch.stack([end[name] * share for end, share in used]).sum(dim=0) if mixes else first
    return found


class Mixture:
    """The linear combinations of several models' weights, with statistics of batch norm that belong to each.

    Args:
        ends: Weights of the models.
        statistics: Returns weights with the statistics measured for them, or as they are if none is live.
    """

    def __init__(self, ends: Sequence[Weights], statistics: Callable[[Weights], Weights]) -> None:
        self.ends = ends
        self._statistics = statistics
        self._measured: dict[tuple[tuple[float, ...], frozenset[str] | None], Weights] = {}

    def at(self, shares: Sequence[float], only: Collection[str] | None = None) -> Weights:
        """Return the combination; arguments are those of `combined`. Statistics are measured once for each."""
        weights = combined(self.ends, shares, only)
        key = tuple(shares), None if only is None else frozenset(only)
        if key not in self._measured:
            found = self._statistics(weights)
            self._measured[key] = {name: tensor for name, tensor in found.items() if tensor is not weights[name]}
        return weights | self._measured[key]


def layers_of(weights: Weights) -> dict[str, list[str]]:
    """Return module -> names of its tensors, in the order of the network: the layers that have weights."""
    found: dict[str, list[str]] = {}
    for name in weights:
        found.setdefault(name.rpartition(".")[0], []).append(name)
    return found
