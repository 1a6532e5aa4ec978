"""Image files in folders, domain/class/image: what is there, whether it is what it should be, and decoding it.

`ImageDataset` is every data set of image files: most are a card alone. Class numbers are those of the card, or of the
sorted union over the domains, never of one domain's folders.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dgbench.core.errors import Problems, UserError
from dgbench.data.cache import CachedImages, open_images
from dgbench.data.cache_format import FOLDER, ImageCache
from dgbench.data.dataset import DOMAINBED, Dataset, Examples, Recipe
from dgbench.data.transforms_pil import augmented, decoded, decoded_as_far, resized
from dgbench.datasets._tree import (
    Tree,
    class_problems,
    count,
    count_problems,
    domain_problems,
    file_problems,
    instead,
    listed,
    read_tree,
)

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class ImageExamples:
    """Image files of one domain: decoded, turned to RGB and resized when asked for, or read from a cache."""

    root: Path
    files: Sequence[str]
    """Their paths below the root."""
    labels: NDArray[np.int64]
    """(n,)"""
    height: int
    width: int
    recipe: Recipe | None
    """How they are augmented; None: not at all."""
    cache: ImageCache
    rows: NDArray[np.int64]
    """(n,), which images of the cache they are."""
    groups: NDArray[np.int64] | None = None
    images: CachedImages | None = None
    """The cache, if it is open."""

    @property
    def mapped(self) -> bool:
        """Whether they are read from a cache of bytes, without decoding."""
        return self.images is not None and self.images.mapped

    def cached(self) -> ImageExamples:
        """The same examples, read from the cache, which is built if it is not there."""
        return replace(self, images=open_images(self.cache))

    def batch(self, indices: NDArray[np.int64], rng: np.random.Generator | None) -> NDArray[np.uint8]:
        """(B, 3, H, W): squashed to that size, or with `rng`, augmented. Raises `UserError` naming a bad image."""
        recipe, rng = self.recipe or DOMAINBED, rng if self.recipe else None
        if self.images:
            return self.images.batch(self.rows[indices], self.height, self.width, rng, recipe)
        how = self.cache.interpolation
        inputs = np.empty((len(indices), 3, self.height, self.width), np.uint8)
        for row, index in enumerate(indices):
            image = self.cache.decode(self.root / self.files[index])
            if rng is None:
                image = resized(image, self.height, self.width, how)
            else:
                image = augmented(image, self.height, self.width, rng, recipe, how)
            inputs[row] = np.asarray(image).transpose(2, 0, 1)
        return inputs


class ImageDataset(Dataset):
    """Base of the data sets of image files. A subclass declares `card`; one that has no folders writes `find`.

    One of which more is known than a number of images for each domain writes `doubts`.
    """

    recipe: ClassVar[Recipe] = DOMAINBED
    """How training images are augmented."""
    cut_off: ClassVar[tuple[str, ...]] = ()
    """Domains in which published JPEGs end early: they are decoded as far as they go."""
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

    def doubts(self, tree: Tree) -> Iterable[str]:
        """What else is wrong with the files, in the user's words."""
        return ()

    def given_path(self) -> Path:
        """The path that the name of the data set carries."""
        name = type(self).__name__
        if self.path is None:
            raise UserError(f"{name!r} needs a path: write {name}:/path/to/it")
        return self.path

    def open(self) -> None:
        """List the files and refuse, all at once, what is wrong with names, classes, counts and sizes."""
        self.root, tree = self.find()
        self.found = tree  # with those that can't be decoded
        self.domains = self.card.domains or tuple(sorted(tree))
        self.classes = self.card.classes or tuple(sorted({name for classes in tree.values() for name in classes}))
        place = self.path or self.root
        problems = Problems()
        for problem in (
            *domain_problems(place, tree, self.card.domains),
            *class_problems(place, tree, self.card.classes),
            *count_problems(tree, self.card.counts),
            *self.doubts(tree),
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
        import dgbench.data.transforms_cv2  # noqa: F401  (OpenCV, which planning does without)

    def examples(self, domain: str, seed: int) -> Examples:
        """The images of a domain, class after class, each by name; nothing is drawn."""
        labels = np.repeat(np.arange(len(self.classes)), [len(self.tree[domain][name]) for name in self.classes])
        first = sum(self.counts()[: self.domains.index(domain)])
        rows, (_, height, width) = np.arange(first, first + len(labels)), self.input_shape
        files = files_of(self.tree, [domain], self.classes)
        return ImageExamples(self.root, files, labels, height, width, self.recipe, self.image_cache(), rows)

    def image_cache(self) -> ImageCache:
        """The cache of all images, domain after domain."""
        given = self.path.parent if self.path else self.data_dir
        assert given, "open() has refused a data set that lies nowhere"
        identity = "\0".join((self.fingerprint(), *self.domains, "", *self.classes))
        name = f"{type(self).__name__}:{self.path.name}" if self.path else type(self).__name__
        place, files = self.cache_dir or given / FOLDER, partial(files_of, self.tree, self.domains, self.classes)
        _, height, width = self.input_shape
        decode = partial(_decoded, [self.root / domain for domain in self.cut_off])
        return ImageCache(place, name, identity, self.root, files, height, width, self.interpolation, decode)

    def counts(self) -> Sequence[int]:
        """Number of images of each domain, without those that were left out."""
        return [count(self.tree[domain]) for domain in self.domains]

    def remarks(self) -> Sequence[str]:
        """Which files may be decoded in part."""
        if not self.cut_off or self.skip_bad_images:
            return ()
        return (f"JPEGs of {listed(self.cut_off)} that end early are decoded as far as they go, and logged by name",)

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


def files_of(tree: Tree, domains: Sequence[str], classes: Sequence[str]) -> list[str]:
    """The image files of some domains, class after class in each of them."""
    return [file.path for domain in domains for name in classes for file in tree[domain][name]]


def _decoded(cut_off: Sequence[Path], path: Path) -> Image.Image:
    return decoded_as_far(path) if any(folder in path.parents for folder in cut_off) else decoded(path)


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
