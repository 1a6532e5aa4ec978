from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from dgbench.core.data_cards import DatasetCard
from dgbench.core.protocol import View
from dgbench.data.views import ViewData
from dgbench.execute.evaluate import (
    HELD,
    PredictedBatch,
    accuracy_along,
    concatenate_logits,
    evaluate,
    mean_score,
    predict_batches,
    score,
)
from tests.support.in_process import CPU, scores_of

A, B = View("a", "out"), View("b", "out")


def naive(logits: Sequence[Sequence[float]], labels: Sequence[int]) -> tuple[float, float]:
    """Accuracy and cross-entropy, written out."""
    hits, loss = 0, 0.0
    for row, label in zip(logits, labels, strict=True):
        hits += max(range(len(row)), key=lambda k: (row[k], -k)) == label
        top = max(row)
        loss += top + math.log(math.fsum(math.exp(value - top) for value in row)) - row[label]
    return hits / len(labels), loss / len(labels)


@given(data=st.data())
def test_scores_are_what_they_are_by_definition(data: st.DataObject) -> None:
    n, classes = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 5))
    values = st.lists(st.floats(-50, 50, width=32), min_size=classes, max_size=classes)
    logits = data.draw(st.lists(values, min_size=n, max_size=n))
    labels = data.draw(st.lists(st.integers(0, classes - 1), min_size=n, max_size=n))
    found, predicted = evaluate(whole(torch.tensor(logits)), np.array(labels))
    accuracy, loss = naive(logits, labels)
    assert found["accuracy"] == accuracy
    assert found["loss"] == pytest.approx(loss, rel=1e-12, abs=1e-12)
    assert found["n"] == n
    assert predicted.tolist() == [max(range(classes), key=lambda k: (row[k], -k)) for row in logits]


def whole(logits: Tensor) -> list[PredictedBatch]:
    """One batch."""
    return [(np.arange(len(logits)), logits)]


class Toy:
    """Views whose inputs are their own positions, and a record of what was asked for."""

    shape, outputs = (2,), 3
    card = DatasetCard(source="made up", licence="none", input_kind="vectors", input_shape=shape)

    def __init__(self, sizes: dict[View, int]) -> None:
        self.sizes = sizes
        self.examples: dict[str, Any] = dict.fromkeys(view.domain for view in sizes)
        self.indices: dict[View, Any] = {}
        self.asked: list[tuple[View, list[int]]] = []

    def size(self, view: View) -> int:
        return self.sizes[view]

    def labels(self, view: View) -> NDArray[np.int64]:
        return np.arange(self.sizes[view]) % 3

    def inputs(self, view: View, positions: NDArray[np.int64]) -> Tensor:
        self.asked.append((view, positions.tolist()))
        return torch.from_numpy(np.stack([positions, positions % 3], axis=1))


def predict(x: Tensor) -> Tensor:
    """Always right; the first logit tells which input it was."""
    logits = torch.nn.functional.one_hot(x[:, 1], 3).double() * 1e6
    logits[:, 0] += x[:, 0] / 1000
    return logits


def logits(toy: Any, view: View, **options: Any) -> Tensor:
    return concatenate_logits(predict_batches(predict, cast(ViewData, toy), view, CPU, **options), toy.size(view))


@pytest.mark.parametrize("n", [1, 7, 32, 33])
@pytest.mark.parametrize("batch_size", [None, 1, 8, 32, 100])
@pytest.mark.parametrize("shuffled", [False, True])
def test_logits_come_in_the_order_of_the_view_however_inputs_are_shown(
    n: int, batch_size: int | None, shuffled: bool
) -> None:
    toy = Toy({A: n})
    order = np.random.default_rng(0).permutation(n) if shuffled else None
    found = logits(toy, A, batch_size=batch_size, order=order)
    assert torch.equal(found, predict(torch.from_numpy(np.stack([np.arange(n), np.arange(n) % 3], 1))).float())
    assert found.dtype == torch.float32
    shown = [position for _, positions in toy.asked for position in positions]
    assert shown == (list(range(n)) if order is None else order.tolist()), "each once, in that order"
    assert all(len(positions) <= (batch_size or 1024) for _, positions in toy.asked)
    assert len(toy.asked) == math.ceil(n / (batch_size or 1024))


@pytest.mark.parametrize(
    ("changes", "size"),
    [({"shape": (3, 512, 512)}, 5), ({"outputs": 255 * 50_001}, 5), ({"outputs": 2 * HELD}, 1), ({}, 50)],
)
def test_large_inputs_and_outputs_come_in_small_batches(changes: dict[str, Any], size: int) -> None:
    toy = Toy({A: 50})
    vars(toy).update(changes)
    logits(toy, A)
    assert {len(positions) for _, positions in toy.asked} == {size}


def test_of_a_view_no_logits_are_kept() -> None:
    alive, most, toy = set[int](), [0], Toy({A: 40, B: 40})
    toy.outputs = HELD // 4

    def counted(x: Tensor) -> Tensor:
        found = predict(x).float()
        alive.add(id(found))
        weakref.finalize(found, alive.discard, id(found))
        most[0] = max(most[0], len(alive))
        return found

    scores_of(counted, cast(ViewData, toy), (A, B))
    assert len(toy.asked) == 20
    assert most[0] <= 2, "a batch's, and those of the one before until they are replaced"
    kept: dict[View, Tensor] = {}
    scores_of(counted, cast(ViewData, toy), (A,), kept)
    assert kept[A].shape == (40, 3)


def test_nothing_is_learned_while_evaluating() -> None:
    weight = torch.ones(1, requires_grad=True)

    def learned(x: Tensor) -> Tensor:
        result = predict(x) * weight
        assert not result.requires_grad
        return result

    assert len(list(predict_batches(learned, cast(ViewData, Toy({A: 3})), A, CPU, batch_size=1))) == 3
    assert torch.is_grad_enabled()


def test_each_view_is_read_once() -> None:
    toy = Toy({A: 4, B: 5})
    scores = scores_of(predict, cast(ViewData, toy), (A, B))
    assert [view for view, _ in toy.asked] == [A, B]
    assert {name: (each["accuracy"], each["n"]) for name, each in scores.items()} == {
        "a/out": (1.0, 4),
        "b/out": (1.0, 5),
    }
    kept: dict[View, Tensor] = {}
    assert scores_of(predict, cast(ViewData, toy), (A, B), kept) == scores
    assert {view: len(values) for view, values in kept.items()} == {A: 4, B: 5}
    assert torch.equal(kept[B], logits(toy, B))
    assert evaluate(whole(kept[B]), toy.labels(B))[0] == scores["b/out"]


def test_domains_weigh_alike_in_the_mean() -> None:
    scores = {"a/out": {"accuracy": 0.5, "n": 1000.0}, "b/out": {"accuracy": 1.0, "n": 1.0}, "c/in": {"accuracy": 0.0}}
    assert mean_score(scores, (A, B)) == 0.75


def test_numbers_and_answers_have_a_loss_and_no_accuracy() -> None:
    logits, y = torch.tensor([[0.5], [-1.0], [2.0]]), np.array([1.0, -1.0, 4.0], np.float32)
    assert evaluate(whole(logits), y, "regression")[0] == {"loss": pytest.approx((0.25 + 0 + 4) / 3), "n": 3}
    answers = np.array([[1, np.nan], [0, 1], [np.nan, np.nan]], np.float32)
    logits = torch.tensor([[2.0, 9.0], [2.0, 0.0], [5.0, 5.0]])
    expected = (math.log1p(math.exp(-2)) + math.log1p(math.exp(2)) + math.log(2)) / 3
    assert evaluate(whole(logits), answers, "multilabel")[0] == {"loss": pytest.approx(expected), "n": 3}


def some_tokens(n: int) -> tuple[Tensor, NDArray[np.int64]]:
    """Logits (n, 4, 5), and tokens of which the first example is asked all, the second none, the others some."""
    rng = np.random.default_rng(0)
    y = np.where(rng.random((n, 4)) < 0.4, -100, rng.integers(5, size=(n, 4)))
    y[0], y[1] = [0, 1, 2, 3], -100
    return torch.from_numpy(rng.normal(size=(n, 4, 5)).astype(np.float32)), y


def test_tokens_are_scored_by_the_mean_over_those_that_are_asked() -> None:
    logits, y = some_tokens(7)
    rows = [
        (row, label)
        for each, labels in zip(logits.tolist(), y, strict=True)
        for row, label in zip(each, labels, strict=True)
    ]
    asked = [(row, int(label)) for row, label in rows if label != -100]
    _, loss = naive([row for row, _ in asked], [label for _, label in asked])
    found, predicted = evaluate(whole(logits), y, "tokens")
    assert found == {"loss": pytest.approx(loss, rel=1e-12), "n": 7}
    assert np.array_equal(predicted, logits.numpy().argmax(-1))
    nothing, _ = evaluate(whole(logits), np.full_like(y, -100), "tokens")
    assert nothing == {"loss": 0, "n": 7}


@pytest.mark.parametrize("kind", ["classification", "tokens"])
def test_batches_make_no_difference_however_much_is_asked_in_them(kind: str) -> None:
    logits, y = some_tokens(9)
    if kind == "classification":
        logits, y = logits.flatten(0, 1), y.flatten().clip(0)
    order = np.random.default_rng(1).permutation(len(y))
    cut = [(part, logits[torch.from_numpy(part)]) for part in np.split(order, [1, 2, 6])]
    (found, predicted), (expected, alike) = evaluate(cut, y, kind), evaluate(whole(logits), y, kind)
    assert found == expected
    assert np.array_equal(predicted, alike)


def test_a_data_sets_own_scores_are_recorded_beside_the_others() -> None:
    class Own:
        groups, labels, domains, parts = None, np.arange(3), np.zeros(3), {"out": np.arange(3)}
        asked: Any = None

        def batch(self, indices: Any, rng: Any) -> Any: ...

        def score(self, predicted: NDArray[Any], indices: NDArray[np.int64]) -> dict[str, float]:
            self.asked = (predicted, indices)
            return {"worst": 0.25, "accuracy": 0.125}

    toy = Toy({A: 3})
    own = toy.examples["a"] = Own()
    toy.indices = {A: np.array([2, 0, 1])}
    logits = torch.eye(3)
    found, _ = score(whole(logits), cast(ViewData, toy), A)
    assert found == {"accuracy": 0.125, "worst": 0.25, "loss": pytest.approx(math.log(1 + 2 / math.e)), "n": 3}
    assert own.asked[0].tolist() == [0, 1, 2]
    assert own.asked[1].tolist() == [2, 0, 1]
    assert mean_score({"a/out": found, "b/out": {"worst": 0.75}}, (A, B), "worst") == 0.5


def test_accuracy_along_a_stream_is_that_of_each_tenth_as_it_came() -> None:
    labels, order = np.arange(25) % 2, np.random.default_rng(0).permutation(25)
    predicted = labels.copy()
    predicted[order[-5:]] ^= 1
    assert accuracy_along(predicted, labels, order) == [1.0] * 7 + [0.5, 0.0, 0.0]
    assert accuracy_along(predicted[:3], labels[:3], np.arange(3)) == (predicted[:3] == labels[:3]).tolist()
