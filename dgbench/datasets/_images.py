"""Image files in folders, domain/class/image: what is there, whether it is what it should be, and decoding it.

`ImageDataset` is every data set of image files: most are a card alone. Class numbers are those of the card, or of the
sorted union over the domains, never of one domain's folders.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

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
from dgbench.transforms import augmented, resized

_log = logging.getLogger(__name__)


class ImageExamples:
    """Image files of one domain; decoded, turned to RGB and resized when asked for. `labels` are (n,)."""

    groups: NDArray[np.int64] | None = None

    def __init__(self, paths: Sequence[Path], labels: NDArray[np.int64], height: int, width: int) -> None:
        self.paths = paths
        self.labels = labels
        self.height = height
        self.width = width

    def batch(self, indices: NDArray[np.int64], rng: np.random.Generator | None) -> NDArray[np.uint8]:
        """(B, 3, H, W): squashed to that size, or with `rng`, augmented. Raises `UserError` naming a bad image."""
        inputs = np.empty((len(indices), 3, self.height, self.width), np.uint8)
        for row, index in enumerate(indices):
            image = decoded(self.paths[index])
            if rng is None:
                image = resized(image, self.height, self.width)
            else:
                image = augmented(image, self.height, self.width, rng)
            inputs[row] = np.asarray(image).transpose(2, 0, 1)
        return inputs


class ImageDataset(Dataset):
    """Base of the data sets of image files. A subclass declares `card`; one that has no folders writes `find`."""

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

    def examples(self, domain: str, seed: int) -> Examples:
        """The images of a domain, class after class, each by name; nothing is drawn."""
        files = [self.tree[domain][name] for name in self.classes]
        labels = np.repeat(np.arange(len(files)), [len(of_class) for of_class in files])
        paths = [self.root / file.path for of_class in files for file in of_class]
        return ImageExamples(paths, labels, *self.input_shape[1:])

    def counts(self) -> Sequence[int]:
        """Number of images of each domain, without those that were left out."""
        return [count(self.tree[domain]) for domain in self.domains]

    def fingerprint(self) -> str:
        """A hash of domains, classes, relative paths and sizes; the same wherever the files lie."""
        digest = hashlib.sha256()
        for domain in sorted(self.domains):
            for name in sorted(self.tree[domain]):
                for file in sorted(self.tree[domain][name]):
                    digest.update("\0".join((domain, name, file.path, f"{file.size}\n")).encode())
        return digest.hexdigest()


def decoded(path: Path) -> Image.Image:
    """The whole image in RGB, not turned by its EXIF; raises `UserError` naming the file if it can't be decoded."""
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except MemoryError:
        raise
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, zlib.error, ...
        raise UserError(f"image {path} can't be decoded ({error}): repair it, or use --skip_bad_images") from error


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
