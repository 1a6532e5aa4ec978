"""Classify by the nearest neighbors in a memory of features, as AdaNPC and KNN do."""

from __future__ import annotations

import torch
from torch import Tensor

_LEAST = 1e-5
"""Score of a class without a vote, so that its logarithm is finite."""


def scores(cosines: Tensor, labels: Tensor, k: int, temperature: float, num_classes: int) -> Tensor:
    """Return the share of the neighbors' votes that each class gets (B, classes), from 1e-5 to 1.

    The `k` examples of the memory with the largest cosines vote for their labels, weighted by softmax(cosine /
    temperature). A memory of fewer than `k` examples votes as a whole.

    Args:
        cosines: (B, n), of each input with each example of the memory.
        labels: (n,), int64, the classes of the memory's examples.
        k: Number of neighbors that vote.
        temperature: Above 0; a small one leaves the vote to the nearest.
        num_classes: Number of classes.
    """
    cosines, nearest = cosines.topk(min(k, len(labels)), dim=1)
    votes = labels[nearest][:, :, None] == torch.arange(num_classes, device=labels.device)
    shares = torch.einsum("bk,bkc->bc", (cosines / temperature).softmax(dim=1), votes.to(cosines.dtype))
    return (shares + _LEAST).clamp(max=1)
