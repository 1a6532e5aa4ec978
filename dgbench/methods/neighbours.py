"""The classifier without weights that AdaNPC and KNN share: the nearest of a memory vote by their cosine."""

from __future__ import annotations

import torch
from torch import Tensor

_LEAST = 1e-5
"""Score of a class that no neighbour has, so that its logarithm is finite."""


def scores(cosines: Tensor, labels: Tensor, k: int, temperature: float, num_classes: int) -> Tensor:
    """For each class the share of the votes (B, classes), from 1e-5 to 1.

    Of the memory's examples, to which the inputs have these `cosines` (B, n), the `k` with the largest vote for their
    `labels` (n,), with the weight softmax(cosine / temperature). A smaller memory votes as a whole.
    """
    cosines, nearest = cosines.topk(min(k, len(labels)), dim=1)
    votes = labels[nearest][:, :, None] == torch.arange(num_classes, device=labels.device)
    shares = torch.einsum("bk,bkc->bc", (cosines / temperature).softmax(dim=1), votes.to(cosines.dtype))
    return (shares + _LEAST).clamp(max=1)
