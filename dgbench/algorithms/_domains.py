"""What the methods share that make one pass over all domains and then look at each domain's part of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dgbench.methods.algorithm import Algorithm, Batch


def pooled_features(algorithm: Algorithm, batches: Sequence[Batch]) -> Tensor:
    """What the classifier is given, of all domains in one pass: live batch norm sees their mixture."""
    network = algorithm.network
    features: Tensor = network.dropout(network.features(torch.cat([b.x for b in batches])))
    return features


def places(algorithm: Algorithm, batches: Sequence[Batch]) -> Tensor:
    """Where each minibatch's domain stands among all training domains (E,), int64: a step may show only some."""
    device = batches[0].y.device
    if len(batches) == algorithm.task.num_domains:
        return torch.arange(len(batches), device=device)
    return torch.tensor([batch.domain for batch in batches], device=device)


def parts(pooled: Tensor, batches: Sequence[Batch]) -> list[Tensor]:
    """The rows of each domain."""
    return list(torch.split(pooled, [len(b.y) for b in batches]))


def losses_of(algorithm: Algorithm, logits: Sequence[Tensor], batches: Sequence[Batch]) -> Tensor:
    """Mean criterion of each domain (E,)."""
    return torch.stack([algorithm.criterion(z, b.y) for z, b in zip(logits, batches, strict=True)])


def feature_losses(algorithm: Algorithm, features: Sequence[Tensor], batches: Sequence[Batch]) -> Tensor:
    """Mean criterion of each domain (E,) from its features."""
    return losses_of(algorithm, parts(algorithm.network.classifier(torch.cat(list(features))), batches), batches)


def descend_penalised(algorithm: Algorithm, nll: Tensor, penalty: Tensor, weight: float) -> Mapping[str, Tensor]:
    """One step along the gradient of `nll + weight * penalty`; returns what is worth logging."""
    loss = nll + weight * penalty
    algorithm.descend(loss)
    return {"loss": loss.detach(), "nll": nll.detach(), "penalty": penalty.detach()}
