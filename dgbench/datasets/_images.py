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

from dgbench.core.errors import Problems, UserError
from dgbench.core.wording import printable
from dgbench.data.cache import CachedImages, open_images
from dgbench.data.cache_format import FOLDER, ImageCache
from dgbench.data.dataset import DOMAINBED, Dataset, Examples, Recipe
from dgbench.data.decoding import Decoding
from dgbench.data.transforms_pil import augmented, resized
from dgbench.datasets._tree import (
    Accepted,
    Tree,
    class_problems,
    count,
    count_problems,
    domain_problems,
    file_problems,
    instead,
    listed,
    missing_classes,
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
    accepted: Accepted | None = None
    """Which files are images; None: those that torchvision takes, and nothing is counted."""
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
        return root, read_tree(root, self.card.domains, self.accepted)

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
        place, may_lack = self.path or self.root, self.card.path and self.allow_missing_classes
        problems = Problems()
        for problem in (
            *domain_problems(place, tree, self.card.domains),
            *(() if may_lack else class_problems(place, tree, self.card.classes)),
            *count_problems(tree, self.card.counts),
            *self.doubts(tree),
        ):
            problems.add(problem)
        if self.skip_bad_images:
            tree = without_bad_images(self.root, tree, self.decoding)
        for problem in file_problems(tree, may_lack=may_lack):
            problems.add(problem)
        for told in self.accepted.told() if problems.found and self.accepted else ():
            problems.add(told)
        problems.raise_if_any()
        self.tree = tree
        self.missing_classes = missing_classes(tree)
        present = {name for classes in tree.values() for name, files in classes.items() if files}
        self.classes = self.card.classes or tuple(sorted(present))

    @property
    def decoding(self) -> Decoding:
        """Say how the files are decoded."""
        cut_off = tuple(self.root / domain for domain in self.cut_off)
        return Decoding(cut_off=cut_off, most_pixels=self.max_image_pixels)

    def preload(self) -> None:
        """Import what reads cached images."""
        import dgbench.data.transforms_cv2  # noqa: F401  (OpenCV, which planning does without)

    def examples(self, domain: str, seed: int) -> Examples:
        """The images of a domain, class after class, each by name; nothing is drawn."""
        sizes = [len(self.tree[domain].get(name, ())) for name in self.classes]
        labels = np.repeat(np.arange(len(self.classes)), sizes)
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
        return ImageCache(place, name, identity, self.root, files, height, width, self.interpolation, self.decoding)

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
        digest = hashlib.sha256(self.decoding.turn * b"turned\n")
        for domain in sorted(self.domains):
            for name in sorted(self.tree[domain]):
                for file in sorted(self.tree[domain][name]):
                    said = "\0".join((domain, name, file.path, f"{file.size}\n"))
                    digest.update(said.encode("utf-8", "surrogateescape"))  # names are bytes, which need be no UTF-8
        return digest.hexdigest()


def files_of(tree: Tree, domains: Sequence[str], classes: Sequence[str]) -> list[str]:
    """The image files of some domains, class after class in each of them."""
    return [file.path for domain in domains for name in classes for file in tree[domain].get(name, ())]


def without_bad_images(root: Path, tree: Tree, decoding: Decoding) -> Tree:
    """The files that can be decoded, and whole; the others are logged by name."""
    decoding = replace(decoding, cut_off=())
    files = [file for classes in tree.values() for of_class in classes.values() for file in of_class]
    bad = [problem for file in files if (problem := _badness(decoding, root / file.path, file.size))]
    if bad:
        _log.warning("left out %d bad image(s):\n%s", len(bad), "\n".join(bad))
    return {
        domain: {
            name: tuple(file for file in of_class if not _badness(decoding, root / file.path, file.size))
            for name, of_class in classes.items()
        }
        for domain, classes in tree.items()
    }


@cache
def _badness(decoding: Decoding, path: Path, size: int) -> str:
    """Why an image can't be decoded, or nothing; found out once in a process, as decoding all of them is slow."""
    if size == 0:  # nothing, or a pipe, which to open may take for ever
        return printable(f"{path}: it holds nothing")
    try:
        decoding(path)
    except UserError as error:
        return printable(f"{path} ({size} bytes): {error.__cause__}")
    return ""
