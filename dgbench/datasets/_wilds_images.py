"""WILDS' data sets of image files, in WILDS' own splits or pooled by domain, and the cache of their images.

PovertyMap is not among them: its images are arrays of eight channels of floats, which are read from files as they are.
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
from dgbench.datasets._wilds import HOST, Indices, WildsDataset, WildsExamples, WildsFiles, read_errors


class _ImageFiles(WildsFiles):
    """Base of WILDS' data sets of image files, split in the one way `official`, or pooled.

    The cache of images is found by the tables' hash, not by the images, as a release of WILDS has both together. Two
    data sets that use the same rows of the same tables share one cache if they have `side`.
    """

    side: ClassVar[int] = 0
    """Side in pixels of images that are all squares of one size, cached as they are whatever size inputs have; 0: they
    are not."""
    recipe: ClassVar[Recipe | None]
    """How training images are augmented; None: they are not."""
    cache_dir: Path | None = None
    """The folder of caches that the user named; None: one beside the data set's folder."""

    @property
    def resized_by(self) -> str:
        """The interpolation by which images are resized."""
        return self.interpolation

    @property
    def decoding(self) -> Decoding:
        """How the files are decoded."""
        return Decoding(most_pixels=self.max_image_pixels, advice=f"get it anew from {HOST}, or use --skip_bad_images")

    @staticmethod
    def image_files(source: Any) -> Sequence[str]:
        """Return the image file of each row of the tables, as a path below the data set's folder."""
        raise NotImplementedError

    def schemes(self) -> Sequence[str]:
        """Return the one way of splitting."""
        return ("official",)

    def input_errors(self, source: Any, rows: Indices) -> Sequence[str]:
        """Decode the images of those rows, and return why it failed for each."""
        return read_errors(self.decoding, (self.folder / file for file in _chosen(self.image_files(source), rows)))

    def preload(self) -> None:
        """Let wilds read the tables, and import OpenCV, which reads cached images."""
        import dgbench.data.transforms_cv2  # noqa: F401  (OpenCV, which planning does without)

        self.source("official")

    def images(self, rows: Indices) -> ImageExamples:
        """Return the images of rows of the tables, and their labels."""
        source, (_, height, width) = self.source("official"), self.input_shape
        files, places = _chosen(self.image_files(source), rows), np.searchsorted(self.used(source), rows)
        labels = self.labels(source)[rows]
        return ImageExamples(self.folder, files, labels, height, width, self.recipe, self.image_cache(), places)

    def image_cache(self) -> ImageCache:
        """Describe the one cache of the images of all rows in use."""
        source = self.source("official")
        rows = self.used(source)
        # The rows are part of the identity: WILDS' splits and pooled data use different ones of the same tables.
        identity = f"{self.fingerprint()}\0{hashlib.sha256(rows.astype('<i8').tobytes()).hexdigest()}"
        height, width = (self.side, self.side) if self.side else self.input_shape[1:]
        place, files = self.cache_dir or self.folder.parent / FOLDER, partial(_chosen, self.image_files(source), rows)
        name, how = type(self).__name__, self.resized_by
        return ImageCache(place, name, identity, self.folder, files, height, width, how, self.decoding)


def _chosen(files: Sequence[str], rows: Indices) -> list[str]:
    return [files[row] for row in rows.tolist()]


class WildsImageExamples(WildsExamples):
    """Examples of WILDS' own splits whose inputs are images, decoded from their files or read from the cache."""

    def __init__(self, dataset: WildsImages, source: Any) -> None:
        """Collect labels, parts and domains, and find the images.

        Args:
            dataset: The data set.
            source: What wilds has read.
        """
        super().__init__(dataset, source)
        self.images = dataset.images(self.rows)
        self.prepared = dataset.prepared

    @property
    def mapped(self) -> bool:
        """Whether images come from a cache of bytes, without decoding."""
        return self.images.mapped

    def cached(self) -> WildsImageExamples:
        """Return the same examples, read from the cache, which is built first if it doesn't exist."""
        found = copy.copy(self)
        found.images = self.images.cached()
        return found

    def batch(self, indices: Indices, rng: np.random.Generator | None) -> NDArray[Any]:
        """Return the inputs at `indices`, (B, *input_shape); for training if `rng` is given.

        Raises:
            UserError: An image can't be decoded; the message names it.
        """
        return self.prepared(self.images.batch(indices, rng), rng)


class WildsImages(_ImageFiles, WildsDataset):
    """Base of image data in WILDS' own splits: RGB, squashed to the card's size, augmented by `prepared` at most."""

    recipe = None

    @property
    def resized_by(self) -> str:
        """Always bilinear, as WILDS' own transforms, whatever the network prefers."""
        return "bilinear"

    def examples(self, domain: str, seed: int) -> Examples:
        """Return all examples that the splits use; `seed` is not used."""
        return WildsImageExamples(self, self.source(domain))

    def prepared(self, images: NDArray[np.uint8], rng: np.random.Generator | None) -> NDArray[Any]:
        """Turn images into inputs; by default they are inputs already.

        Args:
            images: (B, 3, H, W), 0 to 255.
            rng: Draws augmentations for training; None: the inputs are for evaluation.
        """
        return images


class WildsPooled(_ImageFiles):
    """Base of WILDS data for leave-one-domain-out, as DomainBed has them: official splits are ignored.

    A domain is all rows with one value of a field of the metadata. Training images are resized first and then
    augmented, as in DomainBed; its other image folders are augmented first.
    """

    recipe = Recipe(resize_first=True)
    field: ClassVar[str]
    """Field of the metadata whose values are the domains; a domain is called by both, `hospital_0`."""

    def rows(self, source: Any) -> Indices:
        """Return all rows."""
        return np.arange(len(source.y_array))

    def examples(self, domain: str, seed: int) -> Examples:
        """Return all images of the domain; `seed` is not used."""
        return self.images(self._rows(domain))

    def counts(self) -> Sequence[int]:
        """Return the number of images of each domain."""
        return [len(self._rows(domain)) for domain in self.domains]

    def _rows(self, domain: str) -> Indices:
        """Return the rows in use that have the domain's value."""
        source, value = self.source("official"), int(domain.rpartition("_")[2])
        used: Indices = self.used(source)
        there: Indices = used[_values(source, self.field)[used] == value]
        return there

    @classmethod
    def check(cls, source: Any, scheme: str) -> None:
        """Refuse domains and numbers of images that are not the card's."""
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
