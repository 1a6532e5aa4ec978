"""Image files in folders, domain/class/image: what is there, whether it is what it should be, and decoding it.

`ImageDataset` is every data set of image files: most are a card alone. Class numbers are those of the card, or of the
sorted union over the domains, never of one domain's folders.
"""

from __future__ import annotations

import copy
import hashlib
import logging
from collections.abc import Sequence
from functools import cache, cached_property, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dgbench.dataset import Dataset, Examples
from dgbench.datasets._tree import (
    Tree,
    class_problems,
    count,
    count_problems,
    domain_problems,
    file_problems,
    instead,
    read_tree,
)
from dgbench.errors import Problems, UserError
from dgbench.image_cache import FOLDER, CachedImages, ImageCache
from dgbench.transforms import augmented, decoded, resized

_log = logging.getLogger(__name__)


class ImageExamples:
    """Image files of one domain: decoded, turned to RGB and resized when asked for, or read from a cache.

    `labels` are (n,); the images of a domain are those from row `first` of `cache` on.
    """

    groups: NDArray[np.int64] | None = None

    def __init__(
        self,
        paths: Sequence[Path],
        labels: NDArray[np.int64],
        height: int,
        width: int,
        cache: ImageCache | None = None,
        first: int = 0,
        interpolation: str = "bilinear",
    ) -> None:
        self.paths = paths
        self.labels = labels
        self.height = height
        self.width = width
        self.cache = cache
        self.first = first
        self.interpolation = interpolation
        self.images: CachedImages | None = None

    @property
    def mapped(self) -> bool:
        """Whether they are read from a cache of bytes, without decoding."""
        return self.images is not None and self.images.mapped

    def cached(self) -> ImageExamples:
        """The same examples, read from the cache if there is to be one; it is built if it is not there."""
        found = copy.copy(self)
        found.images = self.cache.open() if self.cache else None
        return found

    def batch(self, indices: NDArray[np.int64], rng: np.random.Generator | None) -> NDArray[np.uint8]:
        """(B, 3, H, W): squashed to that size, or with `rng`, augmented. Raises `UserError` naming a bad image."""
        if self.images:
            return self.images.batch(self.first + indices, self.height, self.width, rng)
        inputs = np.empty((len(indices), 3, self.height, self.width), np.uint8)
        for row, index in enumerate(indices):
            image = decoded(self.paths[index])
            if rng is None:
                image = resized(image, self.height, self.width, self.interpolation)
            else:
                image = augmented(image, self.height, self.width, rng, self.interpolation)
            inputs[row] = np.asarray(image).transpose(2, 0, 1)
        return inputs


class ImageDataset(Dataset):
    """Base of the data sets of image files. A subclass declares `card`; one that has no folders writes `find`."""

    cache_dir: Path | None = None

    def find(self) -> tuple[Path, Tree]:
        """The root of the files' paths, and the files; raises `UserError` where there is nothing to read."""
        name = type(self).__name__
        if self.card.path:
            root = self.given_path()
        elif self.data_dir is None:
            raise UserError(f"{name} is read from {self.card.folder} under --data_dir, which is not given")
        else:
            root = self.data_dir / self.card.folder
        if not root.is_dir():
            raise UserError(f"{name} is expected in the folder {root}, which does not exist{instead(root.parent)}")
        return root, read_tree(root, self.card.domains)

    def given_path(self) -> Path:
        """The path that the name of the data set carries."""
        name = type(self).__name__
        if self.path is None:
            raise UserError(f"{name!r} needs a path: write {name}:/path/to/it")
        return self.path

    def open(self) -> None:
        """List the files and refuse, all at once, what is wrong with names, classes, counts and sizes."""
        self.root, tree = self.find()
        self.domains = self.card.domains or tuple(sorted(tree))
        self.classes = self.card.classes or tuple(sorted({name for classes in tree.values() for name in classes}))
        place = self.path or self.root
        problems = Problems()
        for problem in (
            *domain_problems(place, tree, self.card.domains),
            *class_problems(place, tree, self.card.classes),
            *count_problems(tree, self.card.counts),
        ):
            problems.add(problem)
        if self.skip_bad_images:
            tree = without_bad_images(self.root, tree)
        for problem in file_problems(tree):
            problems.add(problem)
        problems.raise_if_any()
        self.tree = tree

    def preload(self) -> None:
        """Import what reads cached images."""
        import dgbench.augmentation  # noqa: F401  (OpenCV, which planning does without)

    def examples(self, domain: str, seed: int) -> Examples:
        """The images of a domain, class after class, each by name; nothing is drawn."""
        labels = np.repeat(np.arange(len(self.classes)), [len(self.tree[domain][name]) for name in self.classes])
        first = sum(self.counts()[: self.domains.index(domain)])
        _, height, width = self.input_shape
        paths = paths_of(self.root, self.tree, [domain], self.classes)
        return ImageExamples(paths, labels, height, width, self.image_cache(), first, self.interpolation)

    def image_cache(self) -> ImageCache:
        """The cache of all images, domain after domain."""
        given = self.path.parent if self.path else self.data_dir
        assert given, "open() has refused a data set that lies nowhere"
        identity = "\0".join((self.fingerprint(), *self.domains, "", *self.classes))
        name = f"{type(self).__name__}:{self.path.name}" if self.path else type(self).__name__
        paths = partial(paths_of, self.root, self.tree, self.domains, self.classes)
        _, height, width = self.input_shape
        return ImageCache(self.cache_dir or given / FOLDER, name, identity, paths, height, width, self.interpolation)

    def counts(self) -> Sequence[int]:
        """Number of images of each domain, without those that were left out."""
        return [count(self.tree[domain]) for domain in self.domains]

    def fingerprint(self) -> str:
        """A hash of domains, classes, relative paths and sizes; the same wherever the files lie."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        for domain in sorted(self.domains):
            for name in sorted(self.tree[domain]):
                for file in sorted(self.tree[domain][name]):
                    digest.update("\0".join((domain, name, file.path, f"{file.size}\n")).encode())
        return digest.hexdigest()


def paths_of(root: Path, tree: Tree, domains: Sequence[str], classes: Sequence[str]) -> list[Path]:
    """The image files of some domains, class after class in each of them."""
    return [root / file.path for domain in domains for name in classes for file in tree[domain][name]]


def without_bad_images(root: Path, tree: Tree) -> Tree:
    """The files that can be decoded; the others are logged by name."""
    bad = [
        problem
        for classes in tree.values()
        for of_class in classes.values()
        for file in of_class
        if (problem := _badness(root / file.path, file.size))
    ]
    if bad:
        _log.warning("left out %d bad image(s):\n%s", len(bad), "\n".join(bad))
    return {
        domain: {
            name: tuple(file for file in of_class if not _badness(root / file.path, file.size))
            for name, of_class in classes.items()
        }
        for domain, classes in tree.items()
    }


@cache
def _badness(path: Path, size: int) -> str:
    """Why an image can't be decoded, or nothing; found out once in a process, as decoding all of them is slow."""
    try:
        decoded(path)
    except UserError as error:
        return f"{path} ({size} bytes): {error.__cause__}"
    return ""
