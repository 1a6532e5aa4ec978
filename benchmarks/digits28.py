"""The rotated digits, enlarged to 28 x 28: RotatedMNIST's shape without its download. Include it with `--include`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dgbench.data.dataset import ArrayExamples, Examples
from dgbench.datasets.rotated import RotatedDigits


class RotatedDigits28(RotatedDigits):
    """scikit-learn's digits, rotated, each pixel repeated and padded to 28 x 28."""

    card = replace(RotatedDigits.card, input_shape=(1, 28, 28), steps=200, checkpoint_freq=100)

    def examples(self, domain: str, seed: int) -> Examples:
        """As the 8 x 8 digits, three times as large with a border of 2."""
        small = super().examples(domain, seed)
        assert isinstance(small, ArrayExamples)
        large = np.pad(small.inputs.repeat(3, 2).repeat(3, 3), ((0, 0), (0, 0), (2, 2), (2, 2)))
        return ArrayExamples(large, small.labels)


class RotatedDigits10000(RotatedDigits28):
    """The same digits again and again, 10,000 in all: RotatedMNIST's layout in short, evaluated three times."""

    card = replace(
        RotatedDigits28.card,
        counts={"0": 1667, "15": 1667, "30": 1667, "45": 1667, "60": 1666, "75": 1666},
        steps=61,
        checkpoint_freq=30,
    )

    def examples(self, domain: str, seed: int) -> Examples:
        """As in `RotatedDigits28`, repeated to the number on the card."""
        few, counts = super().examples(domain, seed), self.card.counts
        assert isinstance(few, ArrayExamples)
        assert counts
        chosen = np.arange(counts[domain]) % len(few.labels)
        return ArrayExamples(few.inputs[chosen], few.labels[chosen])
