"""Base of the data sets made from one pool of digits, as DomainBed makes its own: shuffle, deal, change by domain.

The pool is shuffled by a seed, domain i of n gets the items i, i + n, i + 2n, ..., and a subclass changes them
(`make`): it turns them, or colors them. The pool is scikit-learn's 1,797 digits of 8 x 8 pixels for a card without a
folder, enlarged where `image_size` asks for it; otherwise MNIST's 70,000 of 28 x 28, training files before test files.

Departure from DomainBed: draws depend on the seed of `examples` alone. DomainBed draws from the generator that
everything else draws from too, so that each of its runs sees other data.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import math
import zlib
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dgbench.core.data_cards import Archive
from dgbench.core.errors import Problems, UserError
from dgbench.core.progress import ReportProgress
from dgbench.core.seeding import numpy_stream
from dgbench.data.dataset import ArrayExamples, Dataset, Examples

Images = NDArray[np.uint8]
"""(n, H, W), 0 to 255."""
Labels = NDArray[np.int64]
"""(n,), the digits."""

MNIST_HOST = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_MNIST = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}
"""MNIST's files and their MD5."""
_PREFIXES = ("train", "t10k")
LEAST_SIDE = 16
"""Smallest side of enlarged images, in pixels."""
_IMAGES, _LABELS = "images-idx3-ubyte", "labels-idx1-ubyte"


class DigitDataset(Dataset):
    """Base of the data sets made from digits. A subclass declares `card` and writes `make`.

    Its card has `folder` set to read MNIST's files, or empty to read the digits that scikit-learn ships.
    """

    archives = tuple(Archive(name, url=MNIST_HOST + name, md5=md5) for name, md5 in _MNIST.items())

    @classmethod
    def arrange(cls, unpacked: Path, folder: Path, progress: ReportProgress) -> None:
        """Move MNIST's four files, packed or not, from anywhere in the archives into one folder."""
        names = {name.removesuffix(".gz") for name in _MNIST}
        found = [path for path in sorted(unpacked.rglob("*-ubyte*")) if path.name.removesuffix(".gz") in names]
        folder.mkdir(parents=True)
        for path in found:
            path.rename(folder / path.name)

    def make(self, images: Images, labels: Labels, domain: str, seed: int) -> tuple[NDArray[np.uint8], Labels]:
        """Change the digits dealt to a domain.

        Args:
            images: (n, H, W), 0 to 255.
            labels: (n,) digits.
            domain: The domain's name.
            seed: Seed of everything that is drawn.

        Returns:
            The inputs (n, C, H, W) and the labels (n,) of the domain.
        """
        raise NotImplementedError

    def attributes(self, inputs: NDArray[np.uint8]) -> Mapping[str, NDArray[np.int64]]:
        """Return the attributes of inputs (n, C, H, W) that `make` gave them; none by default."""
        return {}

    def open(self) -> None:
        """Check the image size, and the number and shape of MNIST's images by the heads of its files."""
        height, width = self.card.input_shape[1:]
        name, other = type(self).__name__, self.input_shape != self.card.input_shape
        if other and self.card.folder:
            raise UserError(f"{name} has images of {height} x {width} pixels and no other size")
        if other and self.input_shape[1] < LEAST_SIDE:
            sizes = f"{height} x {width} pixels, or enlarged to {LEAST_SIDE} x {LEAST_SIDE} and more"
            raise UserError(f"{name} has images of {sizes}: image_size {self.input_shape[1]} is neither")
        if self.card.folder:
            expected = (sum(self.card.counts.values()), height, width)
            check_mnist(mnist_files(type(self).__name__, self.data_dir, self.card.folder), expected)

    def preload(self) -> None:
        """Read the pool of digits."""
        self._pool()

    def examples(self, domain: str, seed: int) -> Examples:
        """Return the digits that `seed` deals to the domain, changed by `make`."""
        images, labels = self._pool()
        order = numpy_stream(seed, "digits").permutation(len(labels))
        dealt = order[self.domains.index(domain) :: len(self.domains)]
        inputs, made = self.make(images[dealt], labels[dealt], domain, seed)
        return ArrayExamples(inputs, made, attributes=self.attributes(inputs))

    def counts(self) -> Sequence[int]:
        """Return the card's counts, whose sum `open` has checked."""
        return [self.card.counts[domain] for domain in self.domains]

    def fingerprint(self) -> str:
        """Hash the data set's name and the pool; the draws follow from them and the run's seed."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256(type(self).__name__.encode())
        for array in self._pool():
            digest.update(str(array.shape).encode())
            digest.update(array.tobytes())
        return digest.hexdigest()

    def _pool(self) -> tuple[Images, Labels]:
        if not self.card.folder:
            same_size = self.input_shape == self.card.input_shape
            return sklearn_digits() if same_size else enlarged_digits(self.input_shape[1])
        return mnist_digits(mnist_files(type(self).__name__, self.data_dir, self.card.folder))


@cache
def sklearn_digits() -> tuple[Images, Labels]:
    """Return scikit-learn's digits (1797, 8, 8) and their labels; gray levels 0 to 16 are spread over 0 to 255.

    They are read once in a process, from the file in the installed package: importing scikit-learn takes a hundred
    times as long.

    Raises:
        UserError: The installed version of scikit-learn has no such file.
    """
    # Finds the package's folder without importing it.
    package = importlib.util.find_spec("sklearn")
    assert package is not None
    assert package.submodule_search_locations is not None
    path = Path(package.submodule_search_locations[0], "datasets", "data", "digits.csv.gz")
    if not path.is_file():
        raise UserError(f"this version of scikit-learn has no {path}: install the version that requirements.txt names")
    table = np.loadtxt(path, delimiter=",", dtype=np.int64)
    images = np.rint(table[:, :-1] * (255 / 16)).astype(np.uint8)
    return images.reshape(-1, 8, 8), table[:, -1]


@cache
def enlarged_digits(side: int) -> tuple[Images, Labels]:
    """Return scikit-learn's digits as (1797, side, side), framed as MNIST's, and their labels; once in a process."""
    images, labels = sklearn_digits()
    return np.stack([enlarged(image, side) for image in images]), labels


def enlarged(image: NDArray[np.uint8], side: int = 28) -> NDArray[np.uint8]:
    """Enlarge an image (8, 8) bilinearly to (side, side), in a black frame as wide as MNIST's: 4 of 28 pixels."""
    frame = round(side * 4 / 28)
    box = side - 2 * frame
    return np.pad(np.asarray(Image.fromarray(image).resize((box, box), Image.Resampling.BILINEAR)), frame)


def mnist_files(name: str, data_dir: Path | None, folder: str) -> tuple[Path, ...]:
    """Return the paths of MNIST's four files: training images and labels, test images and labels.

    Args:
        name: The data set, for messages.
        data_dir: The folder that holds the data sets; None: the user gave none.
        folder: The folder of the files below it.

    Raises:
        UserError: No data directory was given, or files are missing, with or without `.gz`; the message names them all.
    """
    if data_dir is None:
        raise UserError(f"{name} is read from {folder} under --data_dir, which is not given")
    found, missing = list[Path](), list[str]()
    for file_name in (f"{prefix}-{kind}" for prefix in _PREFIXES for kind in (_IMAGES, _LABELS)):
        candidates = [data_dir / folder / file_name, data_dir / folder / f"{file_name}.gz"]
        present = [path for path in candidates if path.is_file()]
        found += present[:1]
        missing += [] if present else [file_name]
    if missing:
        raise UserError(
            f"{name} needs {', '.join(missing)} in {data_dir / folder}, packed (.gz) or not: get them from {MNIST_HOST}"
        )
    return tuple(found)


def check_mnist(files: Sequence[Path], expected: tuple[int, int, int]) -> None:
    """Compare the heads of MNIST's files with the expected number and size of images.

    Args:
        files: As `mnist_files` returns them.
        expected: Number of images in both files together, their height and width.

    Raises:
        UserError: Everything in which they differ, or a file has no valid head.
    """
    problems = Problems()
    total = 0
    for image_file, label_file in (files[:2], files[2:]):
        with problems.collecting():
            n, height, width = _read_head(image_file, 3)
            total += n
            if (height, width) != expected[1:]:
                problems.add(f"{image_file} has images of {height} x {width}, not {expected[1]} x {expected[2]}")
            (num_labels,) = _read_head(label_file, 1)
            if num_labels != n:
                problems.add(f"{label_file} has {num_labels} labels for the {n} images of {image_file.name}")
    problems.raise_if_any()
    if total != expected[0]:
        raise UserError(f"{files[0].parent} has {total:,} images in both files together, expected {expected[0]:,}")


@cache
def mnist_digits(files: tuple[Path, ...]) -> tuple[Images, Labels]:
    """Read the images (70000, 28, 28) and labels (70000,) of MNIST's four files, once in a process.

    Raises:
        UserError: A file is damaged; the message names it.
    """
    images, labels = (np.concatenate([read_idx(path, ndim) for path in files[i::2]]) for i, ndim in ((0, 3), (1, 1)))
    return images, labels.astype(np.int64)


def read_idx(path: Path, ndim: int) -> NDArray[np.uint8]:
    """Read a file in idx format, MNIST's, that holds bytes.

    Args:
        path: The file; packed if it ends in `.gz`.
        ndim: Number of dimensions that the array must have.

    Raises:
        UserError: It is no such file, or damaged.
    """
    shape = _read_head(path, ndim)
    content = _read(path, None)[4 + 4 * ndim :]
    if len(content) != math.prod(shape):
        raise UserError(f"{path} is damaged: {len(content):,} bytes of data where its head says {math.prod(shape):,}")
    return np.frombuffer(content, np.uint8).reshape(shape)


def _read_head(path: Path, ndim: int) -> tuple[int, ...]:
    """Read the shape in the head of an idx file.

    The head is the bytes 0, 0, 8 (the type, bytes) and ndim, then a big-endian int32 for each axis.
    """
    head = _read(path, 4 + 4 * ndim)
    if len(head) < 4 + 4 * ndim or head[:4] != bytes((0, 0, 8, ndim)):
        raise UserError(f"{path} is not an idx file of bytes with {ndim} dimension(s)")
    return tuple(np.frombuffer(head[4:], ">i4").tolist())


def _read(path: Path, size: int | None) -> bytes:
    """Read the first `size` bytes (None: all) of a file, unpacked if it ends in `.gz`."""
    opener: Any = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            content: bytes = file.read(size)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} can't be read: {error}") from error
    return content
