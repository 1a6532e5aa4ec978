"""What planning says of data sets from outside the package that don't keep to the contract."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dgbench.core.data_cards import DatasetCard
from dgbench.core.errors import UserError
from dgbench.data.dataset import ArrayExamples, Dataset
from dgbench.data.facts import facts_of

CARD: dict[str, Any] = {"source": "-", "licence": "-", "input_kind": "vectors", "input_shape": (2,)}


class Points(Dataset):
    card = DatasetCard(**CARD, domains=("a", "b"), classes=("x", "y"))
    inputs: Any = np.zeros((3, 2), np.float32)
    labels: Any = np.array([0, 1, 1])

    def examples(self, domain: str, seed: int) -> ArrayExamples:
        return ArrayExamples(self.inputs, self.labels)

    def counts(self) -> Any:
        return [3, np.int64(3)]

    def fingerprint(self) -> str:
        return "points"


def problems(**changes: Any) -> list[str]:
    with pytest.raises(UserError) as caught:
        facts_of("Mine", type("Mine", (Points,), {"__module__": __name__, **changes})())
    where = f"Mine ({__file__}): "
    assert all(problem.startswith(where) for problem in caught.value.problems)
    return [problem.removeprefix(where) for problem in caught.value.problems]


def test_a_data_set_that_keeps_to_the_contract_is_taken() -> None:
    assert facts_of("Points", Points()).counts == (3, 3)
    assert facts_of("Points", type("Whole", (Points,), {"labels": np.array([0.0, 1.0, 1.0])})()).counts == (3, 3)


def test_methods_that_are_missing_are_named_together_with_missing_names() -> None:
    assert problems(counts=Dataset.counts, fingerprint=Dataset.fingerprint, card=DatasetCard(**CARD)) == [
        "Mine needs a method counts()",
        "Mine needs a method fingerprint()",
        "it has no domains: name them on the card, or set self.domains in open()",
        "it has no classes: name them on the card, or set self.classes in open()",
    ]


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ([3], "counts() returns 1 numbers for 2 domains"),
        ([3, 1.5], "counts() returns whole numbers of examples, not [3, 1.5]"),
        ({"a": 3, "b": 3}, "counts() returns a list with the number of examples of each domain, not a dict"),
        ([3, 4], "examples('b', seed) has 3 labels, and counts() says 4 examples"),
    ],
    ids=str,
)
def test_counts_are_checked(counts: Any, said: str) -> None:
    assert problems(counts=lambda self: counts)[0] == said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"inputs": np.zeros((3, 2))}, "has inputs of type float64, not float32: add .astype(np.float32)"),
        ({"inputs": np.zeros((3, 4), np.float32)}, "has inputs of shape (3, 4), not (3, 2)"),
        ({"inputs": np.full((3, 2), np.inf, np.float32)}, "has inputs that are infinite or not a number"),
        ({"inputs": [[0.0, 0.0]] * 3}, "has inputs of type list, not a NumPy array"),
        (
            {"labels": np.array([0, 1, 2])},
            "has labels from 0 to 2, and 2 classes: labels are 0 to 1, the positions in classes",
        ),
    ],
    ids=str,
)
def test_examples_in_memory_are_checked_in_every_domain(changes: dict[str, Any], said: str) -> None:
    assert problems(**changes) == [f"examples({domain!r}, seed) {said}" for domain in "ab"]


@pytest.mark.parametrize("labels", [[0, 1, np.nan], [0, 0.5, 1], [0, 1, np.inf], ["x", "y", "y"]], ids=str)
def test_labels_that_are_no_whole_numbers_are_refused(labels: list[Any]) -> None:
    assert problems(labels=np.array(labels))[0].startswith("the labels of ArrayExamples are whole numbers")


def test_large_data_are_not_made() -> None:
    assert facts_of("Large", type("Large", (Points,), {"counts": lambda self: [10**9, 3]})()).counts == (10**9, 3)
