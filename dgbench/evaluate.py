"""Where labels meet predictions: `evaluate`, and nowhere else for a view that nobody trains on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dgbench.criteria import CRITERIA
from dgbench.data import ViewData
from dgbench.dataset import SplitExamples
from dgbench.protocol import View

Predict = Callable[[Tensor], Tensor]
"""Inputs (B, ...) on the device, as bytes or floats, to logits (B, classes)."""

_VALUES_PER_BATCH = 2**22


def evaluate(logits: Tensor, labels: NDArray[Any], kind: str = "classification") -> dict[str, float]:
    """Scores of a view: `logits` (n, classes) and `labels` (n,) in the same order; `kind` says what labels are.

    `loss` the mean criterion (of classes, cross-entropy in nats), `n` the number of examples, and of classes
    `accuracy` in [0, 1].
    """
    y = torch.from_numpy(labels).to(logits.device)
    z = logits.double()
    loss = CRITERIA[kind](z, y.double() if y.is_floating_point() else y)
    scores = {"loss": loss.item(), "n": len(y)}
    if kind == "classification":
        scores = {"accuracy": (logits.argmax(1) == y).sum().item() / len(y), **scores}
    return scores


def score(logits: Tensor, data: ViewData, view: View) -> dict[str, float]:
    """What is recorded of a view's logits (n, classes) in its order: `evaluate`, and the data set's own scores."""
    found, examples = evaluate(logits, data.labels(view), data.card.task), data.examples[view.domain]
    if isinstance(examples, SplitExamples):
        found |= examples.score(logits.float().numpy(), data.indices[view])
    return found


@torch.no_grad()
def logits_of(
    predict: Predict,
    data: ViewData,
    view: View,
    device: torch.device,
    *,
    batch_size: int | None = None,
    order: NDArray[np.int64] | None = None,
) -> Tensor:
    """Logits (n, classes) of a view in its own order, float32 on the CPU.

    Inputs are shown once each, in `order` if given; without a `batch_size`, in batches that fit any machine.
    """
    n = data.size(view)
    batch_size = batch_size or max(1, min(1024, _VALUES_PER_BATCH // prod(data.input_shape)))
    order = np.arange(n) if order is None else order
    chunks = [
        predict(data.inputs(view, order[start : start + batch_size]).to(device)).float().cpu()
        for start in range(0, n, batch_size)
    ]
    logits = torch.empty(n, chunks[0].shape[1])
    logits[torch.from_numpy(order)] = torch.cat(chunks)
    return logits


def evaluate_views(
    predict: Predict, data: ViewData, views: tuple[View, ...], device: torch.device
) -> tuple[dict[str, dict[str, float]], Mapping[View, Tensor]]:
    """Scores and logits of each view, each read once."""
    logits = {view: logits_of(predict, data, view, device) for view in views}
    return {str(view): score(logits[view], data, view) for view in views}, logits


def mean_score(scores: Mapping[str, Mapping[str, float]], views: tuple[View, ...], metric: str = "accuracy") -> float:
    """Unweighted mean of the metric over views, as training-domain validation takes it."""
    return float(np.mean([scores[str(view)][metric] for view in views]))
