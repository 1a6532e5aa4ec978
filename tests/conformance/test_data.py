"""Questions to data sets find what planning can't: examples that come one batch at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dgbench.conformance.data import DataSubject, examine
from dgbench.core.data_cards import DatasetCard
from dgbench.data.dataset import Dataset


class Read:
    """Examples that are made when they are read."""

    groups = None
    labels = np.zeros(20, np.int64)

    def __init__(self, make: Any) -> None:
        self.make = make

    def batch(self, indices: np.ndarray[Any, Any], rng: np.random.Generator | None) -> Any:
        return self.make(len(indices))


class Dots(Dataset):
    card = DatasetCard(source="-", licence="-", input_shape=(3, 2, 2), domains=("a",), classes=("x", "y"))
    make: Any = None

    def examples(self, domain: str, seed: int) -> Any:
        return Read(type(self).make)

    def counts(self) -> list[int]:
        return [20]

    def fingerprint(self) -> str:
        return "dots"


@pytest.mark.parametrize(
    ("make", "wrong"),
    [
        (lambda n: np.zeros((n, 3, 2, 2), np.uint8), ""),
        (lambda n: np.full((n, 3, 2, 2), 1, np.float32), ""),
        (
            lambda n: np.full((n, 3, 2, 2), 1.5, np.float32),
            "a has images with values outside [0, 1], and the card doesn't say normalised",
        ),
        (lambda n: np.full((n, 3, 2, 2), np.nan, np.float32), "a has inputs that are infinite or not a number"),
        (
            lambda n: np.zeros((n, 3, 2, 2)),
            "a has inputs of type float64, not uint8 or float32: add .astype(np.float32)",
        ),
        (lambda n: np.zeros((n - 1, 3, 2, 2), np.uint8), "a has inputs of shape (7, 3, 2, 2), not (8, 3, 2, 2)"),
        (lambda n: [[0.0]] * n, "a has inputs of type list, not a NumPy array"),
    ],
)
def test_inputs_are_read_and_checked(make: Any, wrong: str) -> None:
    cls = type("Dots", (Dots,), {"make": staticmethod(make)})
    assert dict(examine(DataSubject("Dots", cls(), cls)))["reads"] == wrong
