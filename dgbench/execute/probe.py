"""Fit a linear probe: a classifier on a network's features as they are, before the first step of training."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from functools import partial
from itertools import repeat
from threading import Thread
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from dgbench.core.errors import UserError
from dgbench.core.protocol import Fold, View
from dgbench.data.views import ViewData
from dgbench.execute.evaluate import Read, concatenate_logits, predict_batches
from dgbench.networks.memory import FeatureMemory
from dgbench.networks.network import Network

T = TypeVar("T")

STRENGTHS = np.logspace(-7, 2, 10)
"""Inverse strengths of the L2 penalty, tried from the strongest penalty to the weakest."""
_ITERATIONS = 200
"""Most iterations of one fit."""
_WAIT = 0.5
"""Seconds between two checks whether the run is to stop."""


class Interruptible(Protocol):
    """Type of `RunContext.interruptible`: passes items on until the run is asked to stop."""

    def __call__(self, items: Iterable[T], /) -> Iterator[T]:
        """Yield the items; raise `Stopped` before one if the run is to stop."""
        ...


def fit_classifier(
    network: Network,
    data: ViewData,
    fold: Fold,
    device: torch.device,
    interruptible: Interruptible = iter,
    memory: FeatureMemory | None = None,
    read: Read | None = None,
) -> None:
    """Fit a network's linear classifier in place: L2-penalized logistic regression on all training examples, clean.

    The penalty is the one with the best mean accuracy over the validation views, the strongest of those that tie; each
    fit starts from the one before. A class without a training example gets no weight and the lowest bias.

    Kumar et al., "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution", ICLR 2022 (they
    try 100 penalties).

    Args:
        network: Its featurizer stays as it is, its classifier is overwritten.
        data: The run's views.
        fold: Its `train` views are fitted to, its `validation` views choose the penalty.
        device: Where features are computed.
        interruptible: Passes batches on until the run is asked to stop; the classifier is then unchanged.
        memory: The network's, of these views; None: features are not remembered.
        read: Reads the inputs, see `predict_batches`.

    Raises:
        UserError: The classifier is not linear.
    """
    linear = network.classifier
    if not isinstance(linear, nn.Linear) or linear.in_features != network.num_features:
        raise UserError("classifier_init 'linear_probe' needs a linear classifier on the network's features")
    features = partial(_features, network, data, device=device, interruptible=interruptible, read=read)
    # Training views are passed once; validation views come again at each evaluation.
    x, y = features(fold.train), np.concatenate([data.labels(view) for view in fold.train])
    unseen = [(features([view], memory=memory), data.labels(view)) for view in fold.validation]
    model = LogisticRegression(max_iter=_ITERATIONS, warm_start=True)
    best, chosen = -1.0, (np.empty(0), np.empty(0))
    for strength in STRENGTHS:
        model.C = float(strength)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # with separable features there is no optimum to reach
            _wait_for(partial(model.fit, x, y), interruptible)
        accuracy = float(np.mean([model.score(*view) for view in unseen]))
        if accuracy > best:
            best, chosen = accuracy, (model.coef_.copy(), model.intercept_.copy())
    _write(linear, *chosen, model.classes_)


def _wait_for(work: Callable[[], object], interruptible: Interruptible) -> None:
    """Call `work` in a thread, and stop waiting for it when the run is to stop.

    A fit may take minutes, and scikit-learn can't be interrupted. An abandoned thread ends with the process.
    """
    done = Future[object]()

    def call() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    Thread(target=call, daemon=True).start()
    for _ in interruptible(repeat(None)):
        if wait([done], _WAIT).done:
            done.result()
            return


def _features(
    network: Network,
    data: ViewData,
    views: Sequence[View],
    *,
    device: torch.device,
    interruptible: Interruptible,
    memory: FeatureMemory | None = None,
    read: Read | None = None,
) -> NDArray[np.float64]:
    """Return the features of the views, one after the other, (n, num_features)."""
    network.eval()

    def features(x: Tensor) -> Tensor:
        return network.features(network.prepare(x))

    found = [
        concatenate_logits(
            interruptible(predict_batches(features, data, view, device, memory=memory, read=read)), data.size(view)
        ).numpy()
        for view in views
    ]
    return np.concatenate(found).astype(np.float64)


@torch.no_grad()
def _write(linear: nn.Linear, weight: NDArray[np.float64], bias: NDArray[np.float64], seen: NDArray[np.int64]) -> None:
    """Overwrite a linear layer by the coefficients for the classes that were seen."""
    if len(seen) == 2:  # scikit-learn gives one row for two classes, the difference of their logits
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    linear.weight.zero_()
    linear.bias.fill_(float(bias.min()))
    linear.weight[seen] = torch.from_numpy(weight).to(linear.weight)
    linear.bias[seen] = torch.from_numpy(bias).to(linear.bias)
