"""Define how labels of each kind (`data_cards.TASKS`) are trained on, scored and predicted.

An example has one answer, or several of which some may be missing. Every mean is over the answers that are there, so an
example with many of them weighs more than one with few.
"""

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
    """The functions of one kind of label; `CRITERIA` has one instance for each kind."""

    mean: Callable[[Tensor, Tensor], Tensor]
    """Return the loss that training minimizes, of logits and labels y (B, ...): the mean over all answers that are
    there, 0 where there is none; a scalar."""
    losses: Callable[[Tensor, Tensor], Tensor]
    """Return the loss of each answer, shaped as y, in nats if it is a cross-entropy; 0 where an answer is missing."""
    answered: Callable[[Tensor], Tensor]
    """Return, for labels y, which answers are there: bool, shaped as y."""
    predicted: Callable[[Tensor], Tensor]
    """Return, for logits, the predictions that scores are computed from, shaped as y."""


def _complete(losses: Callable[..., Tensor], predicted: Callable[[Tensor], Tensor]) -> Criterion:
    """Build the criterion of labels of which none is missing; `losses` takes torch's `reduction`."""
    answered = partial(torch.ones_like, dtype=torch.bool)
    return Criterion(partial(losses, reduction="mean"), partial(losses, reduction="none"), answered, predicted)


def _incomplete(
    losses: Callable[[Tensor, Tensor], Tensor],
    answered: Callable[[Tensor], Tensor],
    predicted: Callable[[Tensor], Tensor],
) -> Criterion:
    """Build the criterion of labels some of which may be missing."""

    def mean(logits: Tensor, y: Tensor) -> Tensor:
        return losses(logits, y).sum() / answered(y).sum().clamp(min=1)

    return Criterion(mean, losses, answered, predicted)


def _squared_error(logits: Tensor, y: Tensor, reduction: str) -> Tensor:
    """Return squared errors of outputs (B, 1) and numbers (B,)."""
    return F.mse_loss(logits.squeeze(1), y, reduction=reduction)


def _known(y: Tensor) -> Tensor:
    return ~y.isnan()


def _binary_cross_entropies(logits: Tensor, y: Tensor) -> Tensor:
    """Return losses (B, questions) of logits (B, questions) and labels 1, 0, or NaN where the answer is unknown."""
    # NaN is replaced before the loss, not after: 0 * NaN is NaN, in the gradient too.
    return F.binary_cross_entropy_with_logits(logits, y.nan_to_num(), reduction="none") * _known(y)


def _known_labels(y: Tensor) -> Tensor:
    return y != NOT_ASKED


def _cross_entropies_of_places(logits: Tensor, y: Tensor) -> Tensor:
    """Return losses (B, places) of logits (B, places, classes) and classes (B, places)."""
    losses = F.cross_entropy(logits.flatten(0, 1), y.flatten(), ignore_index=NOT_ASKED, reduction="none")
    return losses.view_as(y)


CRITERIA: Mapping[str, Criterion] = {
    "classification": _complete(F.cross_entropy, lambda logits: logits.argmax(dim=1)),
    "regression": _complete(_squared_error, lambda logits: logits.squeeze(1).float()),
    "tokens": _incomplete(_cross_entropies_of_places, _known_labels, lambda logits: logits.argmax(dim=2)),
    "multilabel": _incomplete(_binary_cross_entropies, _known, lambda logits: logits.float()),
}
"""Kind of label, a key of `data_cards.TASKS` -> its criterion."""
