"""Base of the data sets that are image files in folders: find the files, check them against the card, decode them.

A published data set of this kind is hardly more than a card: `ImageDataset` lists the files (`_tree`), refuses wrong
names, classes and counts in one message, and hands out `ImageExamples`, which decode files or read the shared cache of
decoded images. Class numbers come from the card, or from the sorted union of the classes of all domains, never from the
folders of one domain: DomainBed numbers them per domain, so that a domain which lacks a class shifts its labels.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
from dgbench.data.transforms_pil import augment, resize
from dgbench.datasets._tree import (
    Accepted,
    Tree,
    class_problems,
    count,
    count_problems,
    domain_problems,
    file_problems,
    found_in,
    listed,
    missing_classes,
    read_tree,
)

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class ImageExamples:
    """The image files of one domain, in a fixed order; `ImageDataset.examples` makes them.

    A batch is decoded from the files, in RGB, until `cached` gives a copy that reads it from the cache.
    """

    root: Path
    """The folder that `files` are relative to."""
    files: Sequence[str]
    """(n,) paths below the root."""
    labels: NDArray[np.int64]
    """(n,) class numbers."""
    height: int
    """Of an input, in pixels."""
    width: int
    """Of an input, in pixels."""
    recipe: Recipe | None
    """How training images are augmented; None: they are not."""
    cache: ImageCache
    """The data set's cache, built or not; it also decodes files."""
    rows: NDArray[np.int64]
    """(n,) positions of the images in the cache."""
    groups: NDArray[np.int64] | None = None
    """None: any image may lie in any part."""
    attributes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Name -> (n,) value of each image; empty: only label and domain are known."""
    images: CachedImages | None = None
    """The opened cache; None: images are decoded from their files."""

    @property
    def mapped(self) -> bool:
        """Whether images come from a cache of bytes, without decoding."""
        return self.images is not None and self.images.mapped

    def cached(self) -> ImageExamples:
        """Return the same examples, read from the cache, which is built first if it doesn't exist."""
        return replace(self, images=open_images(self.cache))

    def batch(self, indices: NDArray[np.int64], rng: np.random.Generator | None) -> NDArray[np.uint8]:
        """Return the images at `indices` as (B, 3, H, W) uint8.

        Args:
            indices: (B,) positions in `files`.
            rng: Draws the augmentation of each image in turn; None: images are squashed to (H, W) and not augmented.

        Raises:
            UserError: An image can't be decoded; the message names it.
        """
        recipe, rng = self.recipe or DOMAINBED, rng if self.recipe else None
        if self.images:
            return self.images.batch(self.rows[indices], self.height, self.width, rng, recipe)
        interpolation = self.cache.interpolation
        inputs = np.empty((len(indices), 3, self.height, self.width), np.uint8)
        for row, index in enumerate(indices):
            image = self.cache.decode(self.root / self.files[index])
            if rng is None:
                image = resize(image, self.height, self.width, interpolation)
            else:
                image = augment(image, self.height, self.width, rng, recipe, interpolation)
            inputs[row] = np.asarray(image).transpose(2, 0, 1)
        return inputs


class ImageDataset(Dataset):
    """Base of the data sets whose examples are image files.

    A subclass declares `card`. It overrides `find` if its files are not in the card's folder as domain/class/image, and
    `further_problems` if it knows more about them than the number of images of each domain.
    """

    recipe: ClassVar[Recipe] = DOMAINBED
    """How training images are augmented."""
    cut_off: ClassVar[tuple[str, ...]] = ()
    """Domains whose published JPEGs may end early; those files are decoded as far as they go."""
    accepted: Accepted | None = None
    """Which files are images; None: those with torchvision's extensions, and files left out are not counted."""
    cache_dir: Path | None = None
    """The folder of caches that the user named; None: `.dgbench-cache` beside the data."""

    def find(self) -> tuple[Path, Tree]:
        """Return the root of the files' paths, and the files.

        Raises:
            UserError: The folder is not given or doesn't exist.
        """
        name = type(self).__name__
        if self.card.path:
            root = self.given_path()
        elif self.data_dir is None:
            raise UserError(f"{name} is read from {self.card.folder} under --data_dir, which is not given")
        else:
            root = self.data_dir / self.card.folder
        if not root.is_dir():
            raise UserError(f"{name} is expected in the folder {root}, which does not exist{found_in(root.parent)}")
        return root, read_tree(root, self.card.domains, self.accepted)

    def further_problems(self, tree: Tree) -> Iterable[str]:
        """Yield further problems of the files found, each as a sentence for the user."""
        return ()

    def given_path(self) -> Path:
        """Return the path in the data set's name, as of `folder:/data/mine`; raise UserError if there is none."""
        name = type(self).__name__
        if self.path is None:
            raise UserError(f"{name!r} needs a path: write {name}:/path/to/it")
        return self.path

    def open(self) -> None:
        """List the files and check their names, classes, counts and sizes.

        Sets `root`, `domains`, `classes`, `missing_classes`, `tree` (the files in use) and `found` (those before bad
        images were left out).

        Raises:
            UserError: All the problems found, and which files were left out.
        """
        self.root, tree = self.find()
        self.found = tree  # including those that can't be decoded
        self.domains = self.card.domains or tuple(sorted(tree))
        # Only a user's own images may lack classes, and only on request: of published data, that is a damaged copy.
        place, may_lack = self.path or self.root, self.card.path and self.allow_missing_classes
        problems = Problems()
        for problem in (
            *domain_problems(place, tree, self.card.domains),
            *(() if may_lack else class_problems(place, tree, self.card.classes)),
            *count_problems(tree, self.card.counts),
            *self.further_problems(tree),
        ):
            problems.add(problem)
        # Counts are checked above, on all files: a published data set with bad images left out is still the published
        # one.
        if self.skip_bad_images:
            tree = without_bad_images(self.root, tree, self.decoding)
        for problem in file_problems(tree, may_lack=may_lack):
            problems.add(problem)
        for left_out in self.accepted.describe() if problems.found and self.accepted else ():
            problems.add(left_out)
        problems.raise_if_any()
        self.tree = tree
        self.missing_classes = missing_classes(tree)
        present = {name for classes in tree.values() for name, files in classes.items() if files}
        self.classes = self.card.classes or tuple(sorted(present))

    @property
    def decoding(self) -> Decoding:
        """How the files are decoded."""
        cut_off = tuple(self.root / domain for domain in self.cut_off)
        return Decoding(cut_off=cut_off, most_pixels=self.max_image_pixels)

    def preload(self) -> None:
        """Import OpenCV, which reads cached images, so that forked runs share it."""
        import dgbench.data.transforms_cv2  # noqa: F401  (OpenCV, which planning does without)

    def examples(self, domain: str, seed: int) -> Examples:
        """Return the images of a domain, class after class and sorted by path; `seed` is not used."""
        sizes = [len(self.tree[domain].get(name, ())) for name in self.classes]
        labels = np.repeat(np.arange(len(self.classes)), sizes)
        first = sum(self.counts()[: self.domains.index(domain)])
        rows, (_, height, width) = np.arange(first, first + len(labels)), self.input_shape
        files = files_of(self.tree, [domain], self.classes)
        attributes = self.attributes_of(files)
        cache = self.image_cache()
        return ImageExamples(self.root, files, labels, height, width, self.recipe, cache, rows, attributes=attributes)

    def attributes_of(self, files: Sequence[str]) -> Mapping[str, Sequence[str]]:
        """Return the attributes of files that the data set knows beside label and domain; none by default."""
        return {}

    def image_cache(self) -> ImageCache:
        """Describe the one cache of all images, domain after domain, class after class."""
        given = self.path.parent if self.path else self.data_dir
        assert given, "open() has refused a data set that lies nowhere"
        # The order of domains and classes is part of the identity, as it decides the row of each image; the fingerprint
        # is not ordered.
        identity = "\0".join((self.fingerprint(), *self.domains, "", *self.classes))
        name = f"{type(self).__name__}:{self.path.name}" if self.path else type(self).__name__
        place, files = self.cache_dir or given / FOLDER, partial(files_of, self.tree, self.domains, self.classes)
        _, height, width = self.input_shape
        return ImageCache(place, name, identity, self.root, files, height, width, self.interpolation, self.decoding)

    def counts(self) -> Sequence[int]:
        """Return the number of images of each domain, without those left out."""
        return [count(self.tree[domain]) for domain in self.domains]

    def remarks(self) -> Sequence[str]:
        """Name the domains whose files may be decoded in part."""
        if not self.cut_off or self.skip_bad_images:
            return ()
        return (f"JPEGs of {listed(self.cut_off)} that end early are decoded as far as they go, and logged by name",)

    def fingerprint(self) -> str:
        """Hash domains, classes, relative paths and sizes in bytes: equal wherever the files lie."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        # Turned images are other data under the same names; the default adds nothing, so that fingerprints of old
        # results hold.
        digest = hashlib.sha256(self.decoding.turn * b"turned\n")
        for domain in sorted(self.domains):
            for name in sorted(self.tree[domain]):
                for file in sorted(self.tree[domain][name]):
                    line = "\0".join((domain, name, file.path, f"{file.size}\n"))
                    digest.update(line.encode("utf-8", "surrogateescape"))  # names are bytes, maybe not UTF-8
        return digest.hexdigest()


def files_of(tree: Tree, domains: Sequence[str], classes: Sequence[str]) -> list[str]:
    """List the paths of a tree's files in the order in which examples have them.

    Args:
        tree: The files found.
        domains: Domains in their order.
        classes: Classes in their order, within each domain; those that a domain lacks are skipped.
    """
    return [file.path for domain in domains for name in classes for file in tree[domain].get(name, ())]


def without_bad_images(root: Path, tree: Tree, decoding: Decoding) -> Tree:
    """Return the files that can be decoded completely; log the others by name as a warning.

    Args:
        root: The folder that paths in the tree are relative to.
        tree: The files found.
        decoding: How they are decoded. Its `cut_off` is ignored: a file that ends early is a bad one.
    """
    decoding = replace(decoding, cut_off=())
    files = [file for classes in tree.values() for of_class in classes.values() for file in of_class]
    bad = [problem for file in files if (problem := _decoding_error(decoding, root / file.path, file.size))]
    if bad:
        _log.warning("left out %d bad image(s):\n%s", len(bad), "\n".join(bad))
    return {
        domain: {
            name: tuple(file for file in of_class if not _decoding_error(decoding, root / file.path, file.size))
            for name, of_class in classes.items()
        }
        for domain, classes in tree.items()
    }


@cache
def _decoding_error(decoding: Decoding, path: Path, size: int) -> str:
    """Return why an image can't be decoded, or an empty text. Cached for the process: decoding all files is slow."""
    if size == 0:  # an empty file, or a pipe, whose opening may block for ever
        return printable(f"{path}: it holds nothing")
    try:
        decoding(path)
    except UserError as error:
        return printable(f"{path} ({size} bytes): {error.__cause__}")
    return ""
