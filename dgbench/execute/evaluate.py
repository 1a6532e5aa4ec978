"""Evaluate predictors: the only module in which the labels of a held-out domain meet predictions.

They meet in `evaluate` and, where a data set defines metrics itself, in `score`. Algorithms, averages, mergers,
adapters and selectors never see such a label, and of the scores only those that they are entitled to. The other
functions prepare the input of these two: `predict_batches` yields a view's logits batch by batch, `score_views` covers
all views of a run.

Views may be large, and so may logits: a language model gives thousands for each example. So a view's logits are never
held together unless they are asked for. Of each batch only the losses and the predicted labels are kept, and memory
grows with the labels of a view. Losses are stored by position and summed in double precision in the order of the view,
so that neither the size nor the order of the batches shows in the sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from math import prod
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dgbench.core.protocol import View
from dgbench.data.dataset import SplitExamples
from dgbench.data.views import ViewData
from dgbench.methods.criteria import CRITERIA
from dgbench.networks.memory import FeatureMemory

Read: TypeAlias = Callable[[View, Sequence[NDArray[np.int64]]], Iterable[Tensor]]
"""Gives the inputs of a view, (b, ...) on the CPU, at the positions of each of several batches."""
Predict = Callable[[Tensor], Tensor]
"""Maps inputs (B, ...) on the device, bytes or floats as the data set gives them, to logits (B, ...)."""
PredictedBatch = tuple[NDArray[np.int64], Tensor]
"""Positions in a view (B,), and the logits of the examples there (B, ...), on the device."""

HELD = 2**26
"""Most logits held at once, unless one example has more: 256 MiB in float32; scoring them takes 1.2 GiB."""
WINDOWS = 10
"""Parts of a view's stream whose accuracy is recorded."""
_VALUES_PER_BATCH = 2**22
"""Most numbers in a batch of inputs."""


def evaluate(
    batches: Iterable[PredictedBatch], labels: NDArray[Any], kind: str = "classification"
) -> tuple[dict[str, float], NDArray[Any]]:
    """Score the predictions of one view against its labels.

    Args:
        batches: (positions, logits) pairs that cover the view once, in any order.
        labels: The view's labels, (n, ...), in its order.
        kind: What the labels are, a key of `CRITERIA`.

    Returns:
        The scores and the predictions. Scores: `loss`, the mean criterion over all labels that are known; `n`, the
        number of examples; for classes also `accuracy` in [0, 1]. Predictions are shaped as `labels`, in the order of
        the view.
    """
    criterion, losses, predicted = CRITERIA[kind], np.zeros(labels.shape), np.empty(0)
    for positions, logits in batches:
        z, y = to_float64(logits), torch.from_numpy(labels[positions])
        y = (y.double() if y.is_floating_point() else y).to(z.device)
        # By position, so that the sum below runs in the view's order, however batches came.
        losses[positions] = criterion.losses(z, y).cpu().numpy()
        found = criterion.predicted(logits).cpu().numpy()
        # Classes are integers, other predictions floats: the first batch tells.
        if len(predicted) == 0:
            predicted = np.empty(labels.shape, found.dtype)
        predicted[positions] = found
    # Not `n`: an example may have several labels, or none that is known.
    answers = int(criterion.answered(torch.from_numpy(labels)).sum())
    scores = {"loss": float(losses.sum()) / max(1, answers), "n": len(labels)}
    if kind == "classification":
        scores = {"accuracy": int((predicted == labels).sum()) / len(labels), **scores}
    return scores, predicted


def accuracy_along(predicted: NDArray[np.int64], labels: NDArray[np.int64], order: NDArray[np.int64]) -> list[float]:
    """Return the accuracy of each tenth of a view's examples, as they came.

    Args:
        predicted: Classes (n,), in the order of the view.
        labels: Labels (n,), in the same order.
        order: Positions (n,) in the order in which the examples were predicted.

    Returns:
        Accuracies in [0, 1], `WINDOWS` or one an example. Sizes of tenths differ by 1 at most, the first are larger.
    """
    right = (predicted == labels)[order]
    return [float(window.mean()) for window in np.array_split(right, min(WINDOWS, len(right)))]


def score(batches: Iterable[PredictedBatch], data: ViewData, view: View) -> tuple[dict[str, float], NDArray[Any]]:
    """Score one view: the scores of `evaluate`, and those that the data set defines itself.

    Args:
        batches: (positions, logits) pairs that cover the view once, in any order.
        data: The run's views.
        view: The view that the batches are of.

    Returns:
        Name -> value, as it is recorded, and the predictions of `evaluate`.
    """
    found, predicted = evaluate(batches, data.labels(view), data.card.task)
    examples = data.examples[view.domain]
    if isinstance(examples, SplitExamples):
        found |= examples.score(predicted, data.indices[view])
    return found, predicted


def _noting(batches: Iterable[PredictedBatch], order: list[NDArray[np.int64]]) -> Iterator[PredictedBatch]:
    """Yield batches, and append the positions of each to `order`."""
    for positions, logits in batches:
        order.append(positions)
        yield positions, logits


def to_float64(x: Tensor) -> Tensor:
    """Convert a tensor to double precision, on its device, or on the CPU if that is MPS, which has none."""
    return (x.cpu() if x.device.type == "mps" else x).double()


def examples_per_batch(data: ViewData) -> int:
    """Return how many examples fit in a batch on any machine, given the size of inputs and logits; at most 1,024."""
    return max(1, min(1024, _VALUES_PER_BATCH // prod(data.shape), HELD // data.outputs))


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
    memory: FeatureMemory | None = None,
    read: Read | None = None,
) -> Iterator[PredictedBatch]:
    """Yield a view's logits in float32, batch by batch.

    Args:
        predict: Maps inputs to logits.
        data: The run's views.
        view: The view to predict.
        device: Where `predict` computes.
        batch_size: Examples in a batch; None: as many as fit any machine.
        order: Positions in the order in which they are predicted, each once, all or some of the view's; None: all of
            them in the view's order.
        fill: Whether the last batch is filled up with the first inputs, whose second logits are dropped: for models
            whose predictions depend on the other inputs of a batch.
        memory: Of features of these views, told which inputs come; None: there is none.
        read: Reads the inputs; None: `data.inputs` reads each batch when it is needed.

    Yields:
        Positions (b,), and their logits (b, ...) on the device.
    """
    order = np.arange(data.size(view)) if order is None else order
    batch_size = batch_size or examples_per_batch(data)
    batches, shown = [], []
    for start in range(0, len(order), batch_size):
        positions = order[start : start + batch_size]
        # From inputs of earlier batches alone: in its own batch, an example would meet itself.
        again = order[: min(start, batch_size - len(positions))] if fill else order[:0]
        batches.append(positions)
        shown.append(np.concatenate([positions, again]))
    inputs = read(view, shown) if read else (data.inputs(view, positions) for positions in shown)
    for positions, named, x in zip(batches, shown, inputs, strict=True):
        with memory.preparing(str(view), named.tobytes()) if memory else nullcontext():
            logits = predict(x.to(device, non_blocking=x.is_pinned())).float()
        yield positions, logits[: len(positions)]


def concatenate_logits(batches: Iterable[PredictedBatch], n: int) -> Tensor:
    """Gather the batches of a view into one tensor.

    Args:
        batches: (positions, logits) pairs that cover the view once, in any order.
        n: The number of examples in the view.

    Returns:
        Logits (n, ...) in the view's order, on the CPU, of the dtype of the batches.
    """
    found: Tensor | None = None
    for positions, logits in batches:
        found = logits.new_empty((n, *logits.shape[1:]), device="cpu") if found is None else found
        found[torch.from_numpy(positions)] = logits.cpu()
    assert found is not None, "no view is empty"
    return found


def predict_view(predict: Predict, data: ViewData, view: View, device: torch.device) -> Tensor:
    """Return the logits of a whole view, (n, ...) in its order, in float32 on the CPU."""
    return concatenate_logits(predict_batches(predict, data, view, device), data.size(view))


def score_views(
    batches_of: Callable[[View], Iterable[PredictedBatch]],
    data: ViewData,
    views: tuple[View, ...],
    kept: dict[View, Tensor] | None = None,
    along: dict[str, list[float]] | None = None,
    known: Mapping[str, Mapping[str, float]] = MappingProxyType({}),
) -> dict[str, dict[str, float]]:
    """Score several views.

    Args:
        batches_of: Gives a view's batches, an iterable that is read once.
        data: The run's views.
        views: The views to score.
        kept: If given, receives each view's logits, (n, ...), on the CPU.
        along: If given, receives view as text -> its `accuracy_along`; labels are then classes.
        known: View as text -> its scores, of views that are not scored again.

    Returns:
        View as text -> name -> value, as it is recorded.
    """
    found = dict[str, dict[str, float]]()
    for view in views:
        if str(view) in known:
            found[str(view)] = dict(known[str(view)])
            continue
        order: list[NDArray[np.int64]] = []
        batches: Iterable[PredictedBatch] = _noting(batches_of(view), order)
        if kept is not None:
            kept[view] = concatenate_logits(batches, data.size(view))
            batches = [(np.arange(data.size(view)), kept[view])]
        found[str(view)], predicted = score(batches, data, view)
        if along is not None:
            along[str(view)] = accuracy_along(predicted, data.labels(view), np.concatenate(order))
    return found


def mean_score(scores: Mapping[str, Mapping[str, float]], views: tuple[View, ...], metric: str = "accuracy") -> float:
    """Return the unweighted mean of a metric over views: the score of training-domain validation.

    Args:
        scores: View as text -> name -> value.
        views: The views to average over, in this order.
        metric: The name of the value.
    """
    return float(np.mean([scores[str(view)][metric] for view in views]))
