"""WILDS' data sets of image files, in WILDS' own splits or pooled by domain, and the cache of their images.

PovertyMap is not among them: its images are arrays of eight channels of floats, which are read as they are.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dgbench.core.errors import Problems
from dgbench.data.cache_format import FOLDER, ImageCache
from dgbench.data.dataset import Examples, Recipe
from dgbench.data.decoding import Decoding
from dgbench.datasets._images import ImageExamples
from dgbench.datasets._wilds import HOST, Indices, WildsDataset, WildsExamples, WildsFiles, troubles_of


class _ImageFiles(WildsFiles):
    """What data sets of image files have in common; they are split in one way, `official`, or pooled.

    The cache is found by the tables, not by the images: a release of WILDS has both together. Two data sets of the same
    rows of the same tables share it if they have `side`.
    """

    side: ClassVar[int] = 0
    """Of the images, which are squares and are cached as they are, whatever size inputs have; 0 if there are others."""
    recipe: ClassVar[Recipe | None]
    """How training images are augmented; None: not at all."""
    cache_dir: Path | None = None

    @property
    def resized_by(self) -> str:
        """How images are resized."""
        return self.interpolation

    @property
    def decoding(self) -> Decoding:
        """Say how the files are decoded."""
        return Decoding(most_pixels=self.max_image_pixels, advice=f"get it anew from {HOST}, or use --skip_bad_images")

    @staticmethod
    def image_files(source: Any) -> Sequence[str]:
        """The file of each row, as a path below the data set's folder."""
        raise NotImplementedError

    def schemes(self) -> Sequence[str]:
        """Name the one way in which they are split."""
        return ("official",)

    def troubles(self, source: Any, rows: Indices) -> Sequence[str]:
        """Decode the images of those rows."""
        return troubles_of(self.decoding, (self.folder / file for file in _chosen(self.image_files(source), rows)))

    def preload(self) -> None:
        """Let wilds read the tables, and import what reads cached images."""
        import dgbench.data.transforms_cv2  # noqa: F401  (OpenCV, which planning does without)

        self.source("official")

    def images(self, rows: Indices) -> ImageExamples:
        """The images of those rows and their labels."""
        source, (_, height, width) = self.source("official"), self.input_shape
        files, places = _chosen(self.image_files(source), rows), np.searchsorted(self.used(source), rows)
        labels = self.labels(source)[rows]
        return ImageExamples(self.folder, files, labels, height, width, self.recipe, self.image_cache(), places)

    def image_cache(self) -> ImageCache:
        """The cache of the images of all rows that are used."""
        source = self.source("official")
        rows = self.used(source)
        identity = f"{self.fingerprint()}\0{hashlib.sha256(rows.astype('<i8').tobytes()).hexdigest()}"
        height, width = (self.side, self.side) if self.side else self.input_shape[1:]
        place, files = self.cache_dir or self.folder.parent / FOLDER, partial(_chosen, self.image_files(source), rows)
        name, how = type(self).__name__, self.resized_by
        return ImageCache(place, name, identity, self.folder, files, height, width, how, self.decoding)


def _chosen(files: Sequence[str], rows: Indices) -> list[str]:
    return [files[row] for row in rows.tolist()]


class WildsImageExamples(WildsExamples):
    """Examples whose inputs are images, decoded when they are asked for or read from the cache."""

    def __init__(self, dataset: WildsImages, source: Any) -> None:
        super().__init__(dataset, source)
        self.images = dataset.images(self.rows)
        self.prepared = dataset.prepared

    @property
    def mapped(self) -> bool:
        """Whether they are read from a cache of bytes, without decoding."""
        return self.images.mapped

    def cached(self) -> WildsImageExamples:
        """The same examples, read from the cache, which is built if it is not there."""
        found = copy.copy(self)
        found.images = self.images.cached()
        return found

    def batch(self, indices: Indices, rng: np.random.Generator | None) -> NDArray[Any]:
        """(B, *input_shape). Raises `UserError` that names an image which can't be decoded."""
        return self.prepared(self.images.batch(indices, rng), rng)


class WildsImages(_ImageFiles, WildsDataset):
    """Base of those in WILDS' own splits: in RGB, squashed to the card's size, not augmented, as WILDS has them."""

    recipe = None

    @property
    def resized_by(self) -> str:
        """As in WILDS' own transforms, whatever the network."""
        return "bilinear"

    def examples(self, domain: str, seed: int) -> Examples:
        """All examples that the splits use; nothing is drawn."""
        return WildsImageExamples(self, self.source(domain))

    def prepared(self, images: NDArray[np.uint8], rng: np.random.Generator | None) -> NDArray[Any]:
        """The inputs that images (B, 3, H, W) make; for training if `rng` is given."""
        return images


class WildsPooled(_ImageFiles):
    """Base of WILDS data for leave-one-domain-out, as DomainBed has them: official splits are ignored.

    A domain is all rows with one value of a field of the metadata. Images are augmented as DomainBed's others are,
    after they are resized.
    """

    recipe = Recipe(resize_first=True)
    field: ClassVar[str]
    """Domains are called by it and its value: `hospital_0`."""

    def rows(self, source: Any) -> Indices:
        """All rows."""
        return np.arange(len(source.y_array))

    def examples(self, domain: str, seed: int) -> Examples:
        """All images of the domain; nothing is drawn."""
        return self.images(self._rows(domain))

    def counts(self) -> Sequence[int]:
        """Number of images of each domain."""
        return [len(self._rows(domain)) for domain in self.domains]

    def _rows(self, domain: str) -> Indices:
        source, value = self.source("official"), int(domain.rpartition("_")[2])
        used: Indices = self.used(source)
        there: Indices = used[_values(source, self.field)[used] == value]
        return there

    @classmethod
    def check(cls, source: Any, scheme: str) -> None:
        """Refuse domains that are not the card's, and numbers of images that are not."""
        problems = Problems()
        values, counts = np.unique(_values(source, cls.field), return_counts=True)
        found = {f"{cls.field}_{value}": int(n) for value, n in zip(values.tolist(), counts.tolist(), strict=True)}
        if tuple(found) != cls.card.domains:
            problems.add(f"{cls.__name__} has the domains {', '.join(found)}, expected {', '.join(cls.card.domains)}")
        for domain, expected in cls.card.counts.items():
            if domain in found and found[domain] != expected:
                problems.add(f"{cls.__name__}: {domain} has {found[domain]:,} images, expected {expected:,}")
        problems.raise_if_any()


def _values(source: Any, field: str) -> Indices:
    values: Indices = source.metadata_array[:, source.metadata_fields.index(field)].numpy()
    return values
