"""Digits whose color predicts the label in training, and misleads in the domain with the inverse correlation."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from dgbench.core.data_cards import GENERATED, DatasetCard
from dgbench.core.seeding import numpy_stream
from dgbench.datasets._digits import MNIST_HOST, DigitDataset, Images, Labels

_MISCOLORED = {"+90%": 0.1, "+80%": 0.2, "-90%": 0.9}
"""Domain -> probability that the color is not that of the label."""
_CLASSES = ("5 to 9", "0 to 4")
_LABEL_NOISE = 0.25
"""Probability that a label is flipped: shape alone predicts 75 % at best, less than color does in training."""


def colored(images: Images, digits: Labels, miscolored: float, seed: int) -> tuple[NDArray[np.uint8], Labels]:
    """Color digits in a way that predicts their noisy binary labels.

    The label is 1 for digits below 5, flipped with probability 0.25; the color is the label, flipped with probability
    `miscolored`. Both flips depend on `seed` and `miscolored` alone.

    Args:
        images: (n, H, W).
        digits: (n,), 0 to 9.
        miscolored: Probability that the color is not that of the label.
        seed: Seed of the flips.

    Returns:
        Inputs (n, 2, H, W), with the image in the channel of its color and zeros in the other, and binary labels (n,).
    """
    # The word names a stream of random numbers: spelled otherwise, it would draw other data.
    rng = numpy_stream(seed, "colour", miscolored)
    labels = (digits < 5) ^ (rng.random(len(digits)) < _LABEL_NOISE)
    colors = labels ^ (rng.random(len(digits)) < miscolored)
    inputs = np.zeros((len(images), 2, *images.shape[1:]), np.uint8)
    inputs[np.arange(len(images)), colors.astype(np.intp)] = images
    return inputs, labels.astype(np.int64)


def color_of(inputs: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the channel in which each of the inputs (n, 2, H, W) has its digit, (n,)."""
    found: NDArray[np.int64] = inputs.reshape(len(inputs), 2, -1).sum(axis=2, dtype=np.int64).argmax(axis=1)
    return found


class ColoredDigits(DigitDataset):
    """Small digits, 0-4 or 5-9, in two colors: three domains, where color fits 90, 80 or 10 % of the labels.

    `ColoredMNIST` without a download: 1,797 handwritten digits of 8 x 8 pixels that scikit-learn ships, in the same two
    channels and with the same label noise and domains. With `image_size` they are enlarged, for networks made for 28 x
    28 or 64 x 64 pixels. It is a data set for tests and first steps: published numbers on ColoredMNIST are not
    comparable.

    Reference:
        After Arjovsky, Bottou, Gulrajani and Lopez-Paz, "Invariant Risk Minimization", 2019.
        Digits: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998.
    """

    card = DatasetCard(
        source="UCI's Optical Recognition of Handwritten Digits, test part; scikit-learn ships it",
        licence="CC BY 4.0",
        paper="after Arjovsky et al., Invariant Risk Minimization, arXiv:1907.02893",
        link="https://arxiv.org/abs/1907.02893",
        input_shape=(2, 8, 8),
        domains=tuple(_MISCOLORED),
        classes=_CLASSES,
        counts={"+90%": 599, "+80%": 599, "-90%": 599},
        traits=("few_examples", "small_images", GENERATED),
        steps=301,
        checkpoint_freq=50,
    )

    def make(self, images: Images, labels: Labels, domain: str, seed: int) -> tuple[NDArray[np.uint8], Labels]:
        """Draw noisy labels and colors."""
        return colored(images, labels, _MISCOLORED[domain], seed)

    def attributes(self, inputs: NDArray[np.uint8]) -> Mapping[str, NDArray[np.int64]]:
        """Return the color of each digit: the channel that it is in."""
        return {"color": color_of(inputs)}


class ColoredMNIST(DigitDataset):
    """MNIST's digits, 0-4 or 5-9, in two colors: three domains, where color fits 90, 80 or 10 % of the labels.

    A digit is in one of two channels, its color. Labels are flipped with probability 0.25, so that shape predicts at
    most 75 % of them. In the domains `+90%` and `+80%` the color predicts more than that; in `-90%` it predicts the
    other class. A model that learned the color fails when `-90%` is held out.

    The 70,000 digits, training files before test files, are shuffled and dealt to the domains as in DomainBed.

    Departure from DomainBed: by default membership, label noise and colors depend on the trial alone. DomainBed's
    depend on a run's seed, so that each algorithm and each draw of hyperparameters sees other data; the setting
    `generated_data` and DomainBed's presets bring that back.

    Reference:
        Arjovsky, Bottou, Gulrajani and Lopez-Paz, "Invariant Risk Minimization", 2019.
    """

    card = DatasetCard(
        source=MNIST_HOST,
        licence="CC BY-SA 3.0",
        paper="Arjovsky et al., Invariant Risk Minimization, arXiv:1907.02893",
        link="https://arxiv.org/abs/1907.02893",
        input_shape=(2, 28, 28),
        domains=tuple(_MISCOLORED),
        classes=_CLASSES,
        counts={"+90%": 23_334, "+80%": 23_333, "-90%": 23_333},
        folder="MNIST/raw",
        traits=("small_images", GENERATED),
        steps=5001,
        checkpoint_freq=100,
    )

    def make(self, images: Images, labels: Labels, domain: str, seed: int) -> tuple[NDArray[np.uint8], Labels]:
        """Draw noisy labels and colors."""
        return colored(images, labels, _MISCOLORED[domain], seed)

    def attributes(self, inputs: NDArray[np.uint8]) -> Mapping[str, NDArray[np.int64]]:
        """Return the color of each digit: the channel that it is in."""
        return {"color": color_of(inputs)}
