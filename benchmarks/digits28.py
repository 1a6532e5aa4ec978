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
