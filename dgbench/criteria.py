"""What is minimised for each kind of label (`cards.TASKS`): a mean over the examples of a minibatch."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor
from torch.nn import functional as F


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """In nats, of logits (B, classes) and classes (B,)."""
    return F.cross_entropy(logits, y)


def squared_error(logits: Tensor, y: Tensor) -> Tensor:
    """Of the one output (B, 1) and numbers (B,)."""
    return F.mse_loss(logits.squeeze(1), y)


def binary_cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """In nats, of logits (B, questions) and answers (B, questions): 1, 0, or NaN, which doesn't count.

    0 where nothing is answered.
    """
    answered = ~y.isnan()
    losses = F.binary_cross_entropy_with_logits(logits, y.nan_to_num(), reduction="none") * answered
    return losses.sum() / answered.sum().clamp(min=1)


CRITERIA: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "classification": cross_entropy,
    "regression": squared_error,
    "multilabel": binary_cross_entropy,
}
