"""Helpers for methods that pass all domains through the network at once and then look at each domain's rows.

Rows lie in the order of the minibatches: the first domain's examples, then the second's, and so on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dgbench.methods.algorithm import Algorithm
from dgbench.methods.batch import Batch


def pooled_features(algorithm: Algorithm, batches: Sequence[Batch]) -> Tensor:
    """Compute the classifier's inputs for all domains in one pass, (n, num_features) after dropout.

    Live batch norm sees the mixture of domains; where each domain needs statistics apart, take
    `Algorithm.domain_features`.
    """
    network = algorithm.network
    features: Tensor = network.dropout(network.features(torch.cat([b.x for b in batches])))
    return features


def domain_indices(algorithm: Algorithm, batches: Sequence[Batch]) -> Tensor:
    """Return the index of each minibatch's domain among all training domains (E,), int64.

    A step may show only some of the domains; what a method keeps per domain (weights, moving averages) is read and
    written at these indices.
    """
    device = batches[0].y.device
    # The usual case is made on the device: copying a list to it would make the host wait.
    if len(batches) == algorithm.task.num_domains:
        return torch.arange(len(batches), device=device)
    return torch.tensor([batch.domain for batch in batches], device=device)


def split_by_domain(pooled: Tensor, batches: Sequence[Batch]) -> list[Tensor]:
    """Split the rows of the concatenated minibatches by domain.

    Args:
        pooled: (n, ...), a row an example.
        batches: The minibatches that the rows come from.

    Returns:
        A view of each domain's rows (B, ...), in the order of `batches`.
    """
    return list(torch.split(pooled, [len(b.y) for b in batches]))


def losses_of(algorithm: Algorithm, logits: Sequence[Tensor], batches: Sequence[Batch]) -> Tensor:
    """Compute the mean criterion of each domain (E,) from its logits.

    Args:
        algorithm: The method, whose `criterion` is taken.
        logits: (B, classes) of each domain, in the order of `batches`.
        batches: The minibatches, which have the labels.
    """
    return torch.stack([algorithm.criterion(z, b.y) for z, b in zip(logits, batches, strict=True)])


def feature_losses(algorithm: Algorithm, features: Sequence[Tensor], batches: Sequence[Batch]) -> Tensor:
    """Compute the mean criterion of each domain (E,) from its features, in one pass through the classifier.

    Args:
        algorithm: The method, whose classifier and `criterion` are taken.
        features: (B, num_features) of each domain, after dropout, in the order of `batches`.
        batches: The minibatches, which have the labels.
    """
    logits = algorithm.network.classifier(torch.cat(list(features)))
    return losses_of(algorithm, split_by_domain(logits, batches), batches)


def penalized(nll: Tensor, penalty: Tensor, weight: float) -> Mapping[str, Tensor]:
    """Return the parts of a penalized loss: `loss`, which is `nll + weight * penalty`, `nll` and `penalty`.

    Args:
        nll: The loss to fit, a scalar.
        penalty: The regularizer, a scalar.
        weight: Its weight; at 0 the penalty is still computed and logged.
    """
    return {"loss": nll + weight * penalty, "nll": nll, "penalty": penalty}
