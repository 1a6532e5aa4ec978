"""Digits whose colour predicts the label, more or less or inversely by domain: a shortcut that fails when held out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dgbench.core.cards import GENERATED, DatasetCard
from dgbench.core.seeding import numpy_stream
from dgbench.datasets._digits import MNIST_HOST, DigitDataset, Images, Labels

_MISCOLOURED = {"+90%": 0.1, "+80%": 0.2, "-90%": 0.9}
"""Domain -> how often the colour is not that of the label."""
_CLASSES = ("5 to 9", "0 to 4")
_LABEL_NOISE = 0.25


def colored(images: Images, digits: Labels, miscoloured: float, seed: int) -> tuple[NDArray[np.uint8], Labels]:
    """Inputs (n, 2, H, W) with the image in the channel of its colour and zeros in the other, and binary labels (n,).

    The label is 1 for digits below 5, flipped with probability 0.25; the colour is the label, flipped with probability
    `miscoloured`. Both flips depend on `seed` (and `miscoloured`) alone.
    """
    rng = numpy_stream(seed, "colour", miscoloured)
    labels = (digits < 5) ^ (rng.random(len(digits)) < _LABEL_NOISE)
    colours = labels ^ (rng.random(len(digits)) < miscoloured)
    inputs = np.zeros((len(images), 2, *images.shape[1:]), np.uint8)
    inputs[np.arange(len(images)), colours.astype(np.intp)] = images
    return inputs, labels.astype(np.int64)


class ColoredDigits(DigitDataset):
    """scikit-learn's digits in two colours: ColoredMNIST without a download.

    With `image_size` they are enlarged, for networks that are made for 28 x 28 or 64 x 64 pixels.
    """

    card = DatasetCard(
        source="UCI's Optical Recognition of Handwritten Digits, test part; scikit-learn ships it",
        licence="CC BY 4.0",
        paper="after Arjovsky et al., Invariant Risk Minimization, arXiv:1907.02893",
        input_shape=(2, 8, 8),
        domains=tuple(_MISCOLOURED),
        classes=_CLASSES,
        counts={"+90%": 599, "+80%": 599, "-90%": 599},
        traits=("few_examples", "small_images", GENERATED),
        steps=301,
        checkpoint_freq=50,
    )

    def make(self, images: Images, labels: Labels, domain: str, seed: int) -> tuple[NDArray[np.uint8], Labels]:
        """Labels made noisy and colours drawn."""
        return colored(images, labels, _MISCOLOURED[domain], seed)


class ColoredMNIST(DigitDataset):
    """MNIST's digits in two colours."""

    card = DatasetCard(
        source=MNIST_HOST,
        licence="CC BY-SA 3.0",
        paper="Arjovsky et al., Invariant Risk Minimization, arXiv:1907.02893",
        input_shape=(2, 28, 28),
        domains=tuple(_MISCOLOURED),
        classes=_CLASSES,
        counts={"+90%": 23_334, "+80%": 23_333, "-90%": 23_333},
        folder="MNIST/raw",
        traits=("small_images", GENERATED),
        steps=5001,
        checkpoint_freq=100,
    )

    def make(self, images: Images, labels: Labels, domain: str, seed: int) -> tuple[NDArray[np.uint8], Labels]:
        """Labels made noisy and colours drawn."""
        return colored(images, labels, _MISCOLOURED[domain], seed)
