"""Where labels meet predictions: `evaluate`, and nowhere else for a view that nobody trains on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from dgbench.data import ViewData
from dgbench.protocol import View

Predict = Callable[[Tensor], Tensor]
"""Inputs (B, ...) on the device, as bytes or floats, to logits (B, classes)."""

_VALUES_PER_BATCH = 2**22


def evaluate(logits: Tensor, labels: NDArray[np.int64]) -> dict[str, float]:
    """Scores of a view: `logits` (n, classes) and `labels` (n,) in the same order.

    `accuracy` in [0, 1], `loss` the mean cross-entropy in nats, `n` the number of examples.
    """
    y = torch.from_numpy(labels).to(logits.device)
    correct = (logits.argmax(1) == y).sum()
    loss = F.cross_entropy(logits.double(), y)
    return {"accuracy": correct.item() / len(y), "loss": loss.item(), "n": len(y)}


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
    return {str(view): evaluate(logits[view], data.labels(view)) for view in views}, logits


def mean_accuracy(scores: Mapping[str, Mapping[str, float]], views: tuple[View, ...]) -> float:
    """Unweighted mean of the accuracy over views, as training-domain validation takes it."""
    return float(np.mean([scores[str(view)]["accuracy"] for view in views]))
