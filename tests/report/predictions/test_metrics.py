"""Each metric against a plain loop over its definition, or scikit-learn, in float64."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import f1_score, log_loss, recall_score

from dgbench.core.protocol import View
from dgbench.report.predictions import metrics
from dgbench.report.predictions.metrics import BINS, METRICS, LackingError, Predicted, predicted_views
from dgbench.store.predictions import PredictedView, Predictions

CLASSES = ("a", "b", "c", "d")


def view(n: int = 200, seed: int = 0, **changes: Any) -> Predicted:
    """Predictions of which about half are right; class d is never a label, and some logits repeat."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    logits = rng.normal(size=(n, 4)) + 1.5 * np.eye(4)[labels]
    logits[1::7] = logits[0]
    attributes = {"sex": rng.choice(["f", "m"], n), "site": rng.choice(["x", "y", "z"], n)}
    plain = Predicted("p", logits, labels, CLASSES, (500, 100, 20, 3), None, attributes)
    return dataclasses.replace(plain, **changes)


def value(name: str, *views: Predicted) -> float:
    found = METRICS[name].compute(views)
    assert set(found) == {""}
    return found[""]


def probabilities(of: Predicted) -> NDArray[np.float64]:
    powers = np.exp(of.logits)
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def pairs(of: Predicted) -> list[tuple[float, int]]:
    """(confidence, right or not) of each example."""
    rows = probabilities(of)
    return [(float(row.max()), int(row.argmax() == label)) for row, label in zip(rows, of.labels, strict=True)]


def test_macro_f1_is_over_the_classes_that_have_an_example() -> None:
    one = view()
    assert 3 in one.predicted
    expected = f1_score(one.labels, one.predicted, labels=[0, 1, 2], average="macro")
    assert value("macro_f1", one) == pytest.approx(expected, abs=1e-15)


def test_likelihood_and_brier_score() -> None:
    one, p = view(), probabilities(view())
    assert value("nll", one) == pytest.approx(log_loss(one.labels, p, labels=[0, 1, 2, 3]), rel=1e-12)
    expected = sum(
        (p[i, c] - (c == label)) ** 2 for i, label in enumerate(one.labels) for c in range(len(CLASSES))
    ) / len(p)
    assert value("brier", one) == pytest.approx(expected, rel=1e-12)


def test_calibration_error_is_the_loop_over_bins() -> None:
    found, n = pairs(view()), 200
    expected = 0.0
    for place in range(BINS):
        own = [(c, r) for c, r in found if place / BINS < c <= (place + 1) / BINS]
        if own:
            gap = abs(np.mean([r for _, r in own]) - np.mean([c for c, _ in own]))
            expected += len(own) / n * gap
    assert value("ece", view()) == pytest.approx(expected, rel=1e-9)


def test_bins_are_closed_above() -> None:
    assert metrics.bins_of(np.array([0, 0.01, 1 / 15, 0.07, 0.5, 14 / 15, 0.95, 1])).tolist() == [
        0,
        0,
        0,
        1,
        7,
        13,
        14,
        14,
    ]


def test_adaptive_calibration_error_has_bins_of_equal_size() -> None:
    one = view(logits=np.random.default_rng(5).normal(size=(200, 4)))  # without ties
    found = sorted(pairs(one))
    expected = 0.0
    for own in np.array_split(np.array(found), BINS):
        expected += len(own) / 200 * abs(own[:, 1].mean() - own[:, 0].mean())
    assert value("ece_adaptive", one) == pytest.approx(expected, rel=1e-9)


def test_selective_risk_is_the_mean_error_rate_of_the_most_confident() -> None:
    one = view(logits=np.random.default_rng(5).normal(size=(200, 4)))
    errors = [1 - right for _, right in sorted(pairs(one), reverse=True)]
    expected = np.mean([np.mean(errors[:k]) for k in range(1, 201)])
    assert value("selective_risk", one) == pytest.approx(expected, rel=1e-12)
    sure = view(logits=10.0 * np.eye(4)[view().labels])
    assert value("selective_risk", sure) == 0


@pytest.mark.parametrize("name", ["ece_adaptive", "selective_risk"])
def test_the_order_of_equal_confidences_changes_nothing(name: str) -> None:
    one, order = view(), np.random.default_rng(1).permutation(200)
    other = view(logits=one.logits[order], labels=one.labels[order])
    assert value(name, other) == pytest.approx(value(name, one), rel=1e-12)


def test_recall_of_classes() -> None:
    one = view()
    recalls = recall_score(one.labels, one.predicted, labels=[0, 1, 2], average=None)
    assert METRICS["per_class"].compute([one]) == pytest.approx(dict(zip("abc", recalls, strict=True)))
    assert value("worst_class", one) == pytest.approx(min(recalls))


def test_many_medium_and_few_shots_are_means_over_classes() -> None:
    one = view(training_counts=(101, 100, 20, 19), labels=np.arange(200) % 4)
    recalls = recall_score(one.labels, one.predicted, average=None)
    assert value("many_shot", one) == pytest.approx(recalls[0])
    assert value("medium_shot", one) == pytest.approx(np.mean(recalls[1:3]))
    assert value("few_shot", one) == pytest.approx(recalls[3])
    with pytest.raises(LackingError, match="no class that is tested has fewer than 20 training examples"):
        value("few_shot", view())
    with pytest.raises(LackingError, match="class counts of training were not kept"):
        value("many_shot", view(training_counts=()))


def test_the_worst_group_shares_a_class_and_the_value_of_one_attribute() -> None:
    one = view()
    found = [
        float(one.correct[(one.attributes[name] == text) & (one.labels == label)].mean())
        for name, texts in (("sex", "fm"), ("site", "xyz"))
        for text in texts
        for label in range(3)
    ]
    assert value("worst_group", one) == min(found)
    with pytest.raises(LackingError, match="no attributes"):
        value("worst_group", view(attributes={}))


def test_the_worst_domain_is_one_of_the_views_or_of_those_that_a_view_pools() -> None:
    one, other = view(), view(seed=1, domain="q")
    assert value("worst_domain", one, other) == min(one.correct.mean(), other.correct.mean())
    parts = view(seed=2)
    together = np.concatenate([one.correct, parts.correct]).mean()
    assert value("worst_domain", one, parts) == pytest.approx(together), "two parts of one domain"
    numbers = np.arange(200) % 3
    assert value("worst_domain", view(domains=numbers)) == min(one.correct[numbers == i].mean() for i in range(3))


def test_worst_metrics_join_views_and_others_average_them() -> None:
    one, other = view(), view(50, seed=1)
    labels, correct = np.append(one.labels, other.labels), np.append(one.correct, other.correct)
    assert value("worst_class", one, other) == pytest.approx(min(correct[labels == c].mean() for c in range(3)))
    for name in ("macro_f1", "ece", "nll", "brier", "selective_risk"):
        assert value(name, one, other) == pytest.approx((value(name, one) + value(name, other)) / 2)


logits = st.lists(st.lists(st.floats(-30, 30), min_size=3, max_size=3), min_size=1, max_size=40)


@settings(deadline=None)
@given(logits, st.randoms(use_true_random=False))
def test_calibration_errors_are_bounded(rows: Sequence[Sequence[float]], random: Any) -> None:
    labels = np.array([random.randrange(3) for _ in rows])
    one = Predicted("p", np.array(rows), labels, "abc", (), None, {})
    overall = abs(one.confidence.mean() - one.correct.mean())
    for found in (metrics.expected_calibration_error(one), metrics.adaptive_calibration_error(one)):
        assert overall - 1e-9 <= found <= 1 + 1e-9, "bins can't cancel more than one bin would"
    assert 0 <= metrics.selective_risk(one) <= 1
    assert 0 <= metrics.brier_score(one) <= 2


def test_what_is_no_number_gives_none() -> None:
    broken = view()
    broken.logits[3] = math.nan
    for name in ("ece", "ece_adaptive", "nll", "brier", "selective_risk"):
        assert math.isnan(value(name, broken)), name


def test_a_sure_model_has_finite_likelihood() -> None:
    one = view(logits=np.array([[2000.0, 0, 0, 0]]), labels=np.array([1]))
    assert value("nll", one) == 2000


def test_views_are_prepared_and_labels_that_are_no_classes_refused() -> None:
    kept = PredictedView(
        np.zeros((2, 4), np.float32), np.array([0, 1]), np.arange(2), None, {"sex": (np.array([1, 0]), ["f", "m"])}
    )
    (one,) = predicted_views(Predictions(3, CLASSES, {"p/in": kept}), [View("p", "in")])
    assert one.logits.dtype == np.float64
    assert one.attributes["sex"].tolist() == ["m", "f"]
    with pytest.raises(LackingError, match="no predictions on q/in are kept"):
        predicted_views(Predictions(3, CLASSES, {"p/in": kept}), [View("q", "in")])
    numbers = dataclasses.replace(kept, labels=np.array([0.5, 1.0]), logits=np.zeros((2, 1)))
    with pytest.raises(LackingError, match="are for classes"):
        predicted_views(Predictions(3, (), {"p/in": numbers}), [View("p", "in")])
