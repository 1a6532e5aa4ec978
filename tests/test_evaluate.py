from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from dgbench.cards import DatasetCard
from dgbench.data import ViewData
from dgbench.evaluate import evaluate, evaluate_views, logits_of, mean_score, score
from dgbench.protocol import View

CPU = torch.device("cpu")
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
    found = evaluate(torch.tensor(logits), np.array(labels))
    accuracy, loss = naive(logits, labels)
    assert found["accuracy"] == accuracy
    assert found["loss"] == pytest.approx(loss, rel=1e-12, abs=1e-12)
    assert found["n"] == n


class Toy:
    """Views whose inputs are their own positions, and a record of what was asked for."""

    input_shape = (2,)
    card = DatasetCard(source="made up", licence="none", input_kind="vectors", input_shape=input_shape)

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
    return logits_of(predict, cast(ViewData, toy), view, CPU, **options)


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


def test_large_inputs_come_in_small_batches() -> None:
    toy = SimpleNamespace(**vars(Toy({A: 50})), input_shape=(3, 512, 512))
    other = Toy({A: 50})
    toy.size, toy.inputs = other.size, other.inputs
    logits(toy, A)
    assert {len(positions) for _, positions in other.asked} == {5}


def test_nothing_is_learned_while_evaluating() -> None:
    weight = torch.ones(1, requires_grad=True)

    def learned(x: Tensor) -> Tensor:
        result = predict(x) * weight
        assert not result.requires_grad
        return result

    logits_of(learned, cast(ViewData, Toy({A: 3})), A, CPU)


def test_each_view_is_read_once() -> None:
    toy = Toy({A: 4, B: 5})
    scores, found = evaluate_views(predict, cast(ViewData, toy), (A, B), CPU)
    assert [view for view, _ in toy.asked] == [A, B]
    assert {name: (each["accuracy"], each["n"]) for name, each in scores.items()} == {
        "a/out": (1.0, 4),
        "b/out": (1.0, 5),
    }
    assert {view: len(values) for view, values in found.items()} == {A: 4, B: 5}
    assert evaluate(found[B], toy.labels(B)) == scores["b/out"]


def test_domains_weigh_alike_in_the_mean() -> None:
    scores = {"a/out": {"accuracy": 0.5, "n": 1000.0}, "b/out": {"accuracy": 1.0, "n": 1.0}, "c/in": {"accuracy": 0.0}}
    assert mean_score(scores, (A, B)) == 0.75


def test_numbers_and_answers_have_a_loss_and_no_accuracy() -> None:
    logits, y = torch.tensor([[0.5], [-1.0], [2.0]]), np.array([1.0, -1.0, 4.0], np.float32)
    assert evaluate(logits, y, "regression") == {"loss": pytest.approx((0.25 + 0 + 4) / 3), "n": 3}
    answers = np.array([[1, np.nan], [0, 1], [np.nan, np.nan]], np.float32)
    logits = torch.tensor([[2.0, 9.0], [2.0, 0.0], [5.0, 5.0]])
    expected = (math.log1p(math.exp(-2)) + math.log1p(math.exp(2)) + math.log(2)) / 3
    assert evaluate(logits, answers, "multilabel") == {"loss": pytest.approx(expected), "n": 3}


def test_a_data_sets_own_scores_are_recorded_beside_the_others() -> None:
    class Own:
        groups, labels, domains, parts = None, np.arange(3), np.zeros(3), {"out": np.arange(3)}
        asked: Any = None

        def batch(self, indices: Any, rng: Any) -> Any: ...

        def score(self, logits: NDArray[np.float32], indices: NDArray[np.int64]) -> dict[str, float]:
            self.asked = (logits, indices)
            return {"worst": 0.25, "accuracy": 0.125}

    toy = Toy({A: 3})
    own = toy.examples["a"] = Own()
    toy.indices = {A: np.array([2, 0, 1])}
    logits = torch.eye(3)
    found = score(logits, cast(ViewData, toy), A)
    assert found == {"accuracy": 0.125, "worst": 0.25, "loss": pytest.approx(math.log(1 + 2 / math.e)), "n": 3}
    assert np.array_equal(own.asked[0], logits.numpy())
    assert own.asked[0].dtype == np.float32
    assert own.asked[1].tolist() == [2, 0, 1]
    assert mean_score({"a/out": found, "b/out": {"worst": 0.75}}, (A, B), "worst") == 0.5
