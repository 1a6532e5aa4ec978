"""A linear probe: the classifier fitted to a network's features as they are, before any step of training."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from dgbench.core.errors import UserError
from dgbench.core.protocol import Fold, View
from dgbench.data.views import ViewData
from dgbench.execute.evaluate import logits_of
from dgbench.networks.network import Network

STRENGTHS = np.logspace(-7, 2, 10)
"""Inverse weights of the L2 penalty, tried from the strongest penalty to the weakest."""
_ITERATIONS = 200


def fit_classifier(network: Network, data: ViewData, fold: Fold, device: torch.device) -> None:
    """Fit the linear classifier to all training examples, clean, in place: L2-penalised logistic regression.

    The penalty is chosen by mean accuracy over what training may watch; each fit starts from the one
    before. Kumar et al., "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution", ICLR 2022
    (they try 100 penalties). A class without a training example gets no weight and the lowest bias. Raises `UserError`
    if the classifier is not linear.
    """
    linear = network.classifier
    if not isinstance(linear, nn.Linear) or linear.in_features != network.num_features:
        raise UserError("classifier_init 'linear_probe' needs a linear classifier on the network's features")
    x, y = _features(network, data, fold.train, device), np.concatenate([data.labels(view) for view in fold.train])
    unseen = [(_features(network, data, [view], device), data.labels(view)) for view in fold.validation]
    model = LogisticRegression(max_iter=_ITERATIONS, warm_start=True)
    best, chosen = -1.0, (np.empty(0), np.empty(0))
    for strength in STRENGTHS:
        model.C = float(strength)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # separable features have no optimum: the cap is one
            model.fit(x, y)
        accuracy = float(np.mean([model.score(*view) for view in unseen]))
        if accuracy > best:
            best, chosen = accuracy, (model.coef_.copy(), model.intercept_.copy())
    _write(linear, *chosen, model.classes_)


def _features(network: Network, data: ViewData, views: Sequence[View], device: torch.device) -> NDArray[np.float64]:
    """(n, num_features) of the views, one after the other."""
    network.eval()

    def features(x: Tensor) -> Tensor:
        return network.features(network.prepare(x))

    found = [logits_of(features, data, view, device).numpy() for view in views]
    return np.concatenate(found).astype(np.float64)


@torch.no_grad()
def _write(linear: nn.Linear, weight: NDArray[np.float64], bias: NDArray[np.float64], seen: NDArray[np.int64]) -> None:
    if len(seen) == 2:  # scikit-learn gives one row, the difference of the two
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    linear.weight.zero_()
    linear.bias.fill_(float(bias.min()))
    linear.weight[seen] = torch.from_numpy(weight).to(linear.weight)
    linear.bias[seen] = torch.from_numpy(bias).to(linear.bias)
