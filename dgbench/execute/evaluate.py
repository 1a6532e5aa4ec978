"""Where labels meet predictions: `evaluate`, and nowhere else for a view that nobody trains on.

A view is shown to a model in batches. Of a batch's logits nothing is kept but the loss of each answer and what is
predicted, so that memory grows with the answers of a view and not with what a network gives for each; of logits
together at most `HELD` numbers are held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dgbench.core.protocol import View
from dgbench.data.dataset import SplitExamples
from dgbench.data.views import ViewData
from dgbench.methods.criteria import CRITERIA

Predict = Callable[[Tensor], Tensor]
"""Inputs (B, ...) on the device, as bytes or floats, to logits (B, ...)."""
PredictedBatch = tuple[NDArray[np.int64], Tensor]
"""A batch: positions in a view (B,), and the logits of the examples there, on the device."""

HELD = 2**26
"""Most logits that are held together, but for a single example's: 256 MiB in float32; scoring them takes 1.2 GiB."""
_VALUES_PER_BATCH = 2**22


def evaluate(
    batches: Iterable[PredictedBatch], labels: NDArray[Any], kind: str = "classification"
) -> tuple[dict[str, float], NDArray[Any]]:
    """Scores of a view whose examples come in `batches`, each once, in any order; and what is predicted for them.

    `labels` (n, ...) are the view's, of that `kind`. The scores: `loss` the mean criterion over all answers, in double
    precision, `n` the number of examples, and of classes `accuracy` in [0, 1]. Predictions are shaped as the labels,
    in the order of the view.
    """
    criterion, losses, predicted = CRITERIA[kind], np.zeros(labels.shape), np.empty(0)
    for positions, logits in batches:
        z, y = to_float64(logits), torch.from_numpy(labels[positions])
        y = (y.double() if y.is_floating_point() else y).to(z.device)
        losses[positions] = criterion.losses(z, y).cpu().numpy()
        found = criterion.predicted(logits).cpu().numpy()
        if len(predicted) == 0:
            predicted = np.empty(labels.shape, found.dtype)
        predicted[positions] = found
    answers = int(criterion.answered(torch.from_numpy(labels)).sum())
    scores = {"loss": float(losses.sum()) / max(1, answers), "n": len(labels)}
    if kind == "classification":
        scores = {"accuracy": int((predicted == labels).sum()) / len(labels), **scores}
    return scores, predicted


def score(batches: Iterable[PredictedBatch], data: ViewData, view: View) -> dict[str, float]:
    """What is recorded of a view that comes in `batches`: `evaluate`'s scores, and the data set's own."""
    found, predicted = evaluate(batches, data.labels(view), data.card.task)
    examples = data.examples[view.domain]
    if isinstance(examples, SplitExamples):
        found |= examples.score(predicted, data.indices[view])
    return found


def to_float64(x: Tensor) -> Tensor:
    """In double precision, where it is; on the CPU where the device has none."""
    return (x.cpu() if x.device.type == "mps" else x).double()


def examples_per_batch(data: ViewData) -> int:
    """How many examples fit any machine: inputs of 2^22 numbers, logits of `HELD`, and no more than 1,024."""
    return max(1, min(1024, _VALUES_PER_BATCH // prod(data.input_shape), HELD // data.outputs))


@torch.no_grad()
def predict_batches(
    predict: Predict,
    data: ViewData,
    view: View,
    device: torch.device,
    *,
    batch_size: int | None = None,
    order: NDArray[np.int64] | None = None,
    fill: bool = False,
) -> Iterator[PredictedBatch]:
    """A view's logits in float32, batch by batch.

    Inputs are shown once each, in `order` if given, which may also be some of the positions only; without a
    `batch_size`, in batches that fit any machine. To `fill` the last batch is to show the first inputs once more with
    it, whose logits don't count: for predictions that depend on what is predicted together.
    """
    order = np.arange(data.size(view)) if order is None else order
    batch_size = batch_size or examples_per_batch(data)
    for start in range(0, len(order), batch_size):
        positions = order[start : start + batch_size]
        again = order[: min(start, batch_size - len(positions))] if fill else order[:0]
        logits = predict(data.inputs(view, np.concatenate([positions, again])).to(device)).float()
        yield positions, logits[: len(positions)]


def concatenate_logits(batches: Iterable[PredictedBatch], n: int) -> Tensor:
    """All logits (n, ...) of a view in its own order, on the CPU, as precise as they come."""
    found: Tensor | None = None
    for positions, logits in batches:
        found = logits.new_empty((n, *logits.shape[1:]), device="cpu") if found is None else found
        found[torch.from_numpy(positions)] = logits.cpu()
    assert found is not None, "no view is empty"
    return found


def predict_view(predict: Predict, data: ViewData, view: View, device: torch.device) -> Tensor:
    """Logits (n, ...) of a view in its own order, float32 on the CPU, for those who need them all at once."""
    return concatenate_logits(predict_batches(predict, data, view, device), data.size(view))


def score_views(
    batches_of: Callable[[View], Iterable[PredictedBatch]],
    data: ViewData,
    views: tuple[View, ...],
    kept: dict[View, Tensor] | None = None,
) -> dict[str, dict[str, float]]:
    """Score each view from its batches, which come once; put all its logits into `kept`, if given."""
    found = {}
    for view in views:
        batches = batches_of(view)
        if kept is not None:
            kept[view] = concatenate_logits(batches, data.size(view))
            batches = [(np.arange(data.size(view)), kept[view])]
        found[str(view)] = score(batches, data, view)
    return found


def mean_score(scores: Mapping[str, Mapping[str, float]], views: tuple[View, ...], metric: str = "accuracy") -> float:
    """Unweighted mean of the metric over views, as training-domain validation takes it."""
    return float(np.mean([scores[str(view)][metric] for view in views]))
