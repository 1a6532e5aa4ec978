"""Define the metrics of a model's predictions on one view or several: `METRICS`, by name.

Each is computed on each view by itself, and the mean over the views counts, as accuracies are averaged in tables. Those
whose name begins with `worst_` look at the examples of all views together. Everything is float64. scikit-learn and
scipy are imported only inside functions, because most commands need neither.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dgbench.core.protocol import View
from dgbench.store.predictions import PredictedView, Predictions

BINS = 15
"""Bins of confidence of the calibration errors, as in Guo et al., "On Calibration of Modern Neural Networks", 2017."""
MANY, FEW = 100, 20
"""Classes with more training examples than the first are many-shot, with fewer than the second few-shot."""


class LackingError(Exception):
    """Raised where a metric can't be computed from kept predictions; the message names the reason."""


@dataclass(frozen=True)
class Predicted:
    """The predictions of a model on one view, as metrics read them; made by `predicted_views`."""

    domain: str
    """Domain of the view."""
    logits: NDArray[np.float64]
    """(n, classes)."""
    labels: NDArray[np.int64]
    """(n,)."""
    classes: Sequence[str]
    training_counts: Sequence[int]
    """Class -> number of training examples; empty where it was not kept."""
    domains: NDArray[np.int64] | None
    """(n,) numbers of the domains that the view pools; None: it is of one."""
    attributes: Mapping[str, NDArray[np.str_]]
    """Name -> (n,) values."""
    names: Sequence[str] = ()
    """(n,) names of the examples, as of `example_names`."""

    @cached_property
    def log_probabilities(self) -> NDArray[np.float64]:
        """(n, classes), of the softmax."""
        from scipy.special import log_softmax

        return np.asarray(log_softmax(self.logits, axis=1))

    @cached_property
    def predicted(self) -> NDArray[np.int64]:
        """(n,) classes with the largest logit."""
        return np.asarray(self.logits.argmax(axis=1))

    @cached_property
    def correct(self) -> NDArray[np.float64]:
        """(n,) 1 where the predicted class is the label, else 0."""
        return np.asarray(self.predicted == self.labels, dtype=np.float64)

    @cached_property
    def confidence(self) -> NDArray[np.float64]:
        """(n,) probability of the predicted class."""
        return np.asarray(np.exp(self.log_probabilities.max(axis=1)))


def predicted_views(predictions: Predictions, views: Sequence[View]) -> list[Predicted]:
    """Prepare the kept predictions of a model for metrics, view by view.

    Args:
        predictions: The model's.
        views: The views that are asked for.

    Raises:
        LackingError: A view is not kept, or its labels are no classes.
    """
    found = []
    for view in views:
        kept = predictions.views.get(str(view))
        if kept is None:
            raise LackingError(f"no predictions on {view} are kept")
        shape = (len(kept.labels), len(predictions.classes))
        if kept.labels.ndim != 1 or kept.labels.dtype.kind not in "iu" or kept.logits.shape != shape:
            raise LackingError("these metrics are for classes, which the labels are not")
        attributes = {key: np.asarray(texts)[codes] for key, (codes, texts) in kept.attributes.items()}
        counts, logits = predictions.training_counts, kept.logits.astype(np.float64)
        about = kept.domains, attributes, example_names(view.domain, kept)
        found.append(Predicted(view.domain, logits, kept.labels, predictions.classes, counts, *about))
    return found


def example_names(domain: str, kept: PredictedView) -> Sequence[str]:
    """Return the names of a view's examples, (n,): paths below the data set's folder, or `DOMAIN/POSITION`."""
    return kept.files or [example_name(domain, position) for position in kept.positions.tolist()]


def example_name(domain: str, position: int) -> str:
    """Return the name of an example that is no file."""
    return f"{domain}/{position}"


@dataclass(frozen=True)
class Metric:
    """A metric of predictions; `METRICS` has one instance of each."""

    name: str
    """Name among columns and, with dashes, among selectors."""
    title: str
    """Its description in a few words."""
    compute: Callable[[Sequence[Predicted]], Mapping[str, float]]
    """Return class -> value of a model on some views; one value under the empty name, but for metrics by class."""
    higher: bool = True
    """Whether more is better."""
    scale: int = 100
    """Factor by which tables show it: 100 for shares."""
    lowest: bool = False
    """Whether the lowest of the folds counts, not their mean."""


def _mean_over_views(compute: Callable[[Predicted], float]) -> Callable[[Sequence[Predicted]], Mapping[str, float]]:
    """Make a metric of views of a metric of one."""
    return lambda views: {"": float(np.mean([compute(view) for view in views]))}


def macro_f1(view: Predicted) -> float:
    """Return the mean F1 over the classes that have an example."""
    from sklearn.metrics import f1_score

    present = np.unique(view.labels)
    return float(f1_score(view.labels, view.predicted, labels=present, average="macro", zero_division=0))


def expected_calibration_error(view: Predicted) -> float:
    """Return the gap between confidence and accuracy, weighted over `BINS` bins of equal width (Guo et al., 2017)."""
    if not _finite(view):
        return float("nan")
    gaps = np.bincount(bins_of(view.confidence), weights=view.confidence - view.correct, minlength=BINS)
    return float(np.abs(gaps).sum() / len(view.labels))


def bins_of(confidence: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the bin of equal width of each confidence, (n,): the first is [0, 1/15], the others have an open start."""
    return np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)


def adaptive_calibration_error(view: Predicted) -> float:
    """Return the gap between confidence and accuracy over `BINS` bins of equally many examples.

    Examples are sorted by confidence; those of equal confidence each count as the share of them that is right, so that
    their order doesn't matter. After Nguyen and O'Connor, "Posterior calibration and exploratory analysis for natural
    language processing models", 2015.
    """
    if not _finite(view):
        return float("nan")
    order = np.argsort(view.confidence, kind="stable")
    confidence, right = view.confidence[order], _mean_of_ties(view)[order]
    parts = np.array_split(np.arange(len(order)), BINS)
    gaps = [abs(float(np.sum(confidence[part] - right[part]))) for part in parts]
    return sum(gaps) / len(order)


def _finite(view: Predicted) -> bool:
    return bool(np.isfinite(view.confidence).all())


def _mean_of_ties(view: Predicted) -> NDArray[np.float64]:
    """Return for each example the share of right answers among the examples of its confidence, (n,)."""
    _, places, counts = np.unique(view.confidence, return_inverse=True, return_counts=True)
    return np.asarray((np.bincount(places, weights=view.correct) / counts)[places])


def negative_log_likelihood(view: Predicted) -> float:
    """Return the mean of -log p(label), in nats."""
    return -float(view.log_probabilities[np.arange(len(view.labels)), view.labels].mean())


def brier_score(view: Predicted) -> float:
    """Return the mean squared distance between probabilities and label, summed over classes: 0 to 2 (Brier, 1950)."""
    distance = np.exp(view.log_probabilities)
    distance[np.arange(len(view.labels)), view.labels] -= 1
    return float((distance**2).sum(axis=1).mean())


def selective_risk(view: Predicted) -> float:
    """Return the area under the risk-coverage curve: the mean, over k, of the error rate of the k most confident.

    Geifman, Uziel and El-Yaniv, "Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers", 2019. Confidence is
    the largest probability; examples of equal confidence share their errors.
    """
    if not _finite(view):
        return float("nan")
    errors = 1 - _mean_of_ties(view)[np.argsort(-view.confidence, kind="stable")]
    return float((np.cumsum(errors) / np.arange(1, len(errors) + 1)).mean())


def class_recalls(view: Predicted) -> NDArray[np.float64]:
    """Return the accuracy on the examples of each class, (classes,); NaN for a class without an example."""
    counts = np.bincount(view.labels, minlength=len(view.classes))
    right = np.bincount(view.labels, weights=view.correct, minlength=len(view.classes))
    found: NDArray[np.float64] = np.full(len(counts), np.nan)
    return np.divide(right, counts, out=found, where=counts > 0)


def _per_class(views: Sequence[Predicted]) -> Mapping[str, float]:
    """Return class -> mean over views of the accuracy on its examples; classes without an example are left out."""
    recalls = np.array([class_recalls(view) for view in views])
    names = views[0].classes
    return {name: float(np.nanmean(of)) for name, of in zip(names, recalls.T, strict=True) if not np.isnan(of).all()}


def _shot(name: str, holds: Callable[[int], bool]) -> Callable[[Predicted], float]:
    """Make the mean accuracy of classes whose number of training examples satisfies a condition."""

    def compute(view: Predicted) -> float:
        if not len(view.training_counts):
            raise LackingError("the class counts of training were not kept, as in runs of earlier versions")
        chosen = np.array([holds(count) for count in view.training_counts])
        recalls = class_recalls(view)[chosen]
        if np.isnan(recalls).all():
            raise LackingError(f"no class that is tested has {name} training examples")
        return float(np.nanmean(recalls))

    return compute


def _worst_class(views: Sequence[Predicted]) -> Mapping[str, float]:
    """Return the lowest accuracy on the examples of one class."""
    return {"": _lowest(views, [view.labels for view in views])}


def _worst_domain(views: Sequence[Predicted]) -> Mapping[str, float]:
    """Return the lowest accuracy on the examples of one domain, also of those that a view pools."""
    numbers = [np.zeros_like(view.labels) if view.domains is None else view.domains for view in views]
    names = [np.char.add(f"{view.domain}/", of.astype(str)) for view, of in zip(views, numbers, strict=True)]
    return {"": _lowest(views, names)}


def _worst_group(views: Sequence[Predicted]) -> Mapping[str, float]:
    """Return the lowest accuracy on the examples of one class that share the value of one attribute."""
    shared = set.intersection(*(set(view.attributes) for view in views))
    if not shared:
        raise LackingError("examples have no attributes that make groups, or the predictions are of an earlier version")
    found = []
    for name in sorted(shared):
        groups = [np.char.add(np.char.add(view.attributes[name], "/"), view.labels.astype(str)) for view in views]
        found.append(_lowest(views, groups))
    return {"": min(found)}


def _lowest(views: Sequence[Predicted], groups: Sequence[Any]) -> float:
    """Return the lowest accuracy of a group over all views together, given the group of each example."""
    _, places, counts = np.unique(np.concatenate(groups), return_inverse=True, return_counts=True)
    right = np.bincount(places, weights=np.concatenate([view.correct for view in views]))
    return float((right / counts).min())


METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("macro_f1", "mean F1 over classes", _mean_over_views(macro_f1)),
        Metric("worst_class", "accuracy on the worst class", _worst_class),
        Metric("worst_domain", "accuracy on the worst domain", _worst_domain, lowest=True),
        Metric("worst_group", "accuracy on the worst group of an attribute's value and a class", _worst_group),
        Metric("ece", "calibration error", _mean_over_views(expected_calibration_error), higher=False),
        Metric(
            "ece_adaptive", "adaptive calibration error", _mean_over_views(adaptive_calibration_error), higher=False
        ),
        Metric("nll", "negative log-likelihood", _mean_over_views(negative_log_likelihood), higher=False, scale=1),
        Metric("brier", "Brier score", _mean_over_views(brier_score), higher=False, scale=1),
        Metric("selective_risk", "area under the risk-coverage curve", _mean_over_views(selective_risk), higher=False),
        Metric(
            "many_shot",
            "mean accuracy of many-shot classes",
            _mean_over_views(_shot(f"more than {MANY}", lambda n: n > MANY)),
        ),
        Metric(
            "medium_shot",
            "mean accuracy of medium-shot classes",
            _mean_over_views(_shot(f"{FEW} to {MANY}", lambda n: FEW <= n <= MANY)),
        ),
        Metric(
            "few_shot",
            "mean accuracy of few-shot classes",
            _mean_over_views(_shot(f"fewer than {FEW}", lambda n: n < FEW)),
        ),
        Metric("per_class", "accuracy on the examples of each class", _per_class),
    )
}
"""Metric by name, in the order of columns."""
BY_CLASS = "per_class"
"""The metric that has a value for each class, and so decides nothing."""
