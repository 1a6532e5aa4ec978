"""Data sets of a given size, held in memory in several ways; `memory_machine.py` includes them in its sweeps."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dgbench.core.data_cards import GENERATED, DatasetCard
from dgbench.data.dataset import ArrayExamples, Dataset, Examples
from dgbench.datasets._texts import PackedTexts

SIZE = int(os.environ.get("TOY_BYTES", "1000000"))
"""Bytes of all inputs."""
WIDTH = 4096
"""Numbers of an input; each is a byte of a text, or a float."""


class _Toy(Dataset):
    each = WIDTH
    """Bytes of an example."""
    card = DatasetCard(
        source=GENERATED,
        licence="none",
        domains=("a", "b", "c"),
        classes=("0", "1"),
        input_shape=(WIDTH,),
        input_kind="vectors",
        traits=("from_scratch",),
    )

    def open(self) -> None:
        self.held: dict[str, Any] = {}

    def preload(self) -> None:
        for domain in self.domains:
            self.examples(domain, 0)

    def examples(self, domain: str, seed: int) -> Examples:
        if domain not in self.held:
            self.held[domain] = self.make(self.counts()[0])
        return self.held[domain]

    def make(self, n: int) -> Examples:
        raise NotImplementedError

    def counts(self) -> Sequence[int]:
        return [SIZE // 3 // self.each] * 3

    def fingerprint(self) -> str:
        return type(self).__name__


class ToyArrays(_Toy):
    """Floats in one array a domain, read before the fork."""

    each = 4 * WIDTH

    def make(self, n: int) -> Examples:
        return ArrayExamples(np.full((n, WIDTH), 0.5, np.float32), np.arange(n) % 2)


class ToyDrawn(ToyArrays):
    """Floats that are made anew for each seed of the data, as rotated digits are."""

    def preload(self) -> None:
        pass

    def examples(self, domain: str, seed: int) -> Examples:
        return self.make(self.counts()[0])


class _Texts:
    groups = None

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts, self.labels = texts, np.arange(len(texts)) % 2

    def batch(self, indices: NDArray[np.int64], rng: np.random.Generator | None) -> NDArray[np.float32]:
        texts = (self.texts[i] for i in indices.tolist())
        return np.stack([np.frombuffer(text.encode(), np.uint8).astype(np.float32) / 255 for text in texts])


class ToyStrings(_Toy):
    """Texts as a list of strings, of which each counts the references to itself."""

    def make(self, n: int) -> Any:
        return _Texts([f"{i:0{WIDTH}}" for i in range(n)])


class ToyPacked(ToyStrings):
    """The same texts in one array of bytes, as dgbench holds those of WILDS."""

    def make(self, n: int) -> Any:
        return _Texts(PackedTexts(f"{i:0{WIDTH}}" for i in range(n)))
