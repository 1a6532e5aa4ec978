"""How labels of each kind (`cards.TASKS`) are learned and predicted: what is minimised is a mean over what is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from dgbench.data.dataset import NOT_ASKED


@dataclass(frozen=True)
class Criterion:
    """Of one kind of label: y (B, ...), each of one answer or of several, some of which may be missing."""

    mean: Callable[[Tensor, Tensor], Tensor]
    """What training minimises, of a minibatch's logits and y: the mean over all answers; 0 where there is none."""
    losses: Callable[[Tensor, Tensor], Tensor]
    """The loss of each answer, shaped as y, in nats where it is a cross-entropy; 0 where there is none."""
    answered: Callable[[Tensor], Tensor]
    """Which answers there are, shaped as y."""
    predicted: Callable[[Tensor], Tensor]
    """What scores are made of, shaped as y, from logits."""


def _complete(losses: Callable[..., Tensor], predicted: Callable[[Tensor], Tensor]) -> Criterion:
    """Of labels that all have their one answer; `losses` takes torch's word for how they are reduced."""
    answered = partial(torch.ones_like, dtype=torch.bool)
    return Criterion(partial(losses, reduction="mean"), partial(losses, reduction="none"), answered, predicted)


def _incomplete(
    losses: Callable[[Tensor, Tensor], Tensor],
    answered: Callable[[Tensor], Tensor],
    predicted: Callable[[Tensor], Tensor],
) -> Criterion:
    def mean(logits: Tensor, y: Tensor) -> Tensor:
        return losses(logits, y).sum() / answered(y).sum().clamp(min=1)

    return Criterion(mean, losses, answered, predicted)


def _squared_error(logits: Tensor, y: Tensor, reduction: str) -> Tensor:
    """Of the one output (B, 1) and numbers (B,)."""
    return F.mse_loss(logits.squeeze(1), y, reduction=reduction)


def _known(y: Tensor) -> Tensor:
    return ~y.isnan()


def _binary_cross_entropies(logits: Tensor, y: Tensor) -> Tensor:
    """Of logits (B, questions) and y (B, questions): 1, 0, or NaN where nobody knows."""
    return F.binary_cross_entropy_with_logits(logits, y.nan_to_num(), reduction="none") * _known(y)


def _known_labels(y: Tensor) -> Tensor:
    return y != NOT_ASKED


def _cross_entropies_of_places(logits: Tensor, y: Tensor) -> Tensor:
    """Of logits (B, places, classes) and classes y (B, places)."""
    losses = F.cross_entropy(logits.flatten(0, 1), y.flatten(), ignore_index=NOT_ASKED, reduction="none")
    return losses.view_as(y)


CRITERIA: Mapping[str, Criterion] = {
    "classification": _complete(F.cross_entropy, lambda logits: logits.argmax(dim=1)),
    "regression": _complete(_squared_error, lambda logits: logits.squeeze(1).float()),
    "tokens": _incomplete(_cross_entropies_of_places, _known_labels, lambda logits: logits.argmax(dim=2)),
    "multilabel": _incomplete(_binary_cross_entropies, _known, lambda logits: logits.float()),
}
