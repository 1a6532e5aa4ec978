"""Image files in folders, domain/class/image: what is there, whether it is what it should be, and decoding it.

`ImageDataset` is every data set of image files: most are a card alone. Class numbers are those of the card, or of the
sorted union over the domains, never of one domain's folders. Sub-directories of a class folder are read too; names
that begin with a dot, and files without an image's extension, are not looked at.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dgbench.dataset import Dataset, Examples
from dgbench.errors import Problems, UserError
from dgbench.transforms import augmented, resized

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
_NAMES_SHOWN = 5
_log = logging.getLogger(__name__)


class ImageFile(NamedTuple):
    """An image file: its path below the root of the data set, and its size in bytes, 0 if it can't be read."""

    path: str
    size: int


Tree = Mapping[str, Mapping[str, Sequence[ImageFile]]]
"""Domain -> class -> files, each sorted by name; a class folder without images is there too."""


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
            raise UserError(f"{name} is expected in the folder {root}, which does not exist{_instead(root.parent)}")
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
        return [_count(self.tree[domain]) for domain in self.domains]

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


def read_tree(root: Path, domains: Sequence[str]) -> Tree:
    """The files under root/domain/class of the named domains that exist, of all folders in `root` if none is named."""
    try:
        present = _folders(root)
        return {
            domain: {name: tuple(_images(root, root / domain / name)) for name in _folders(root / domain)}
            for domain in domains or present
            if domain in present
        }
    except OSError as error:
        raise UserError(f"{error.filename} can't be read: {error.strerror}") from error


def domain_problems(place: Path, tree: Tree, expected: Sequence[str]) -> Iterator[str]:
    """Domains that are not there; fewer than two, where the files decide."""
    missing = [domain for domain in expected if domain not in tree]
    if missing:
        yield f"{place} lacks the domain(s) {listed(missing)}{_instead(place)}"
    elif len(tree) < 2:
        yield f"{place} has {len(tree)} domain(s), there must be at least 2{_instead(place)}"


def class_problems(place: Path, tree: Tree, expected: Sequence[str]) -> Iterator[str]:
    """Domains that lack a class which is expected (by default: which another domain has), and classes unexpected."""
    names = expected or sorted({name for classes in tree.values() for name in classes})
    if tree and not names:
        yield f"no domain in {place} has a class: images are expected in domain/class/"
    by_lacking = dict[tuple[str, ...], list[str]]()
    for name in names:
        lacking = tuple(domain for domain in tree if name not in tree[domain])
        by_lacking.setdefault(lacking, []).append(name)
    for lacking, of_names in by_lacking.items():
        having = [domain for domain in tree if domain not in lacking]
        if lacking and (expected or len(having) >= len(lacking)):
            yield f"domain(s) {listed(lacking)} lack the class(es) {listed(of_names)}"
        elif lacking:
            yield f"only domain(s) {listed(having)} have the class(es) {listed(of_names)}, {listed(lacking)} lack them"
    for domain, classes in tree.items():
        extra = [name for name in classes if name not in names]
        if extra:
            yield f"domain {domain!r} has the unexpected class(es) {listed(extra)}"


def count_problems(tree: Tree, expected: Mapping[str, int]) -> Iterator[str]:
    """Domains whose number of images is not the one that the card states."""
    for domain, classes in tree.items():
        found = _count(classes)
        if domain in expected and found != expected[domain]:
            yield f"domain {domain!r} has {found:,} images, expected {expected[domain]:,}"


def file_problems(tree: Tree) -> Iterator[str]:
    """Classes without an image, and files without a byte."""
    files = dict.fromkeys(file for classes in tree.values() for of_class in classes.values() for file in of_class)
    for domain, classes in tree.items():
        for name, of_class in classes.items():
            if not of_class:
                yield f"class {name!r} of domain {domain!r} has no image"
    empty = [file.path for file in files if file.size == 0]
    if empty:
        yield f"{len(empty)} image(s) hold nothing: {listed(empty)}; --skip_bad_images leaves them out"


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


def listed(names: Iterable[str]) -> str:
    """Quoted, the first few of many."""
    names = list(names)
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(map(repr, names[:_NAMES_SHOWN])) + more


def size_of(path: Path | str) -> int:
    """In bytes; 0 for what is not there, such as the end of a dangling link."""
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


@cache
def _badness(path: Path, size: int) -> str:
    """Why an image can't be decoded, or nothing; found out once in a process, as decoding all of them is slow."""
    try:
        decoded(path)
    except UserError as error:
        return f"{path} ({size} bytes): {error.__cause__}"
    return ""


def _images(root: Path, folder: Path) -> Iterator[ImageFile]:
    found = list[tuple[str, str]]()
    for place, folders, names in os.walk(folder, onerror=_raise, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [(place, name) for name in names if name.lower().endswith(EXTENSIONS) and not name.startswith(".")]
    for place, name in sorted(found):
        path = os.path.join(place, name)
        yield ImageFile(os.path.relpath(path, root).replace(os.sep, "/"), size_of(path))


def _folders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _raise(error: OSError) -> None:
    raise error


def _instead(folder: Path) -> str:
    """What a folder that lacks something has instead."""
    if not folder.is_dir():
        return ""
    names = _folders(folder)
    return f"; {folder} has {listed(names)}" if names else f"; {folder} has no folders"


def _count(classes: Mapping[str, Sequence[ImageFile]]) -> int:
    return sum(map(len, classes.values()))
