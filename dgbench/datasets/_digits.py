"""Data sets made from a pool of digits as DomainBed makes its own: shuffle, deal domain i the items i::n, change them.

The pool is scikit-learn's 1,797 digits of 8 x 8 for a card without a folder, enlarged where `image_size` asks for it;
otherwise MNIST's 70,000 of 28 x 28, the training files before the test files. Departure from DomainBed: what is drawn
depends on the seed of `examples` alone, not on a generator that everything else draws from too.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import math
import zlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dgbench.core.cards import Archive
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
"""MNIST's files with their MD5."""
_PREFIXES = ("train", "t10k")
LEAST_SIDE = 16
"""Of enlarged images, in pixels."""
_IMAGES, _LABELS = "images-idx3-ubyte", "labels-idx1-ubyte"


class DigitDataset(Dataset):
    """Base of the data sets made from digits. A subclass declares `card` and writes `make`."""

    archives = tuple(Archive(name, url=MNIST_HOST + name, md5=md5) for name, md5 in _MNIST.items())

    @classmethod
    def arrange(cls, unpacked: Path, folder: Path, progress: ReportProgress) -> None:
        """MNIST's four files, packed or not, side by side."""
        names = {name.removesuffix(".gz") for name in _MNIST}
        found = [path for path in sorted(unpacked.rglob("*-ubyte*")) if path.name.removesuffix(".gz") in names]
        folder.mkdir(parents=True)
        for path in found:
            path.rename(folder / path.name)

    def make(self, images: Images, labels: Labels, domain: str, seed: int) -> tuple[NDArray[np.uint8], Labels]:
        """The inputs (n, C, H, W) and labels (n,) of a domain, from the digits that were dealt to it."""
        raise NotImplementedError

    def open(self) -> None:
        """Check the number and shape of the images, from the heads of the files."""
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
        """The digits that `seed` deals to the domain, changed as the domain says."""
        images, labels = self._pool()
        order = numpy_stream(seed, "digits").permutation(len(labels))
        dealt = order[self.domains.index(domain) :: len(self.domains)]
        return ArrayExamples(*self.make(images[dealt], labels[dealt], domain, seed))

    def counts(self) -> Sequence[int]:
        """As the card says; `open` has checked it."""
        return [self.card.counts[domain] for domain in self.domains]

    def fingerprint(self) -> str:
        """A hash of the pool and of what is made from it."""
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
    """scikit-learn's digits, grey levels 0..16 spread over 0..255; read once in a process.

    Read from the file that the package ships, as importing scikit-learn would take a hundred times as long.
    """
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
    """scikit-learn's digits at another size, framed as MNIST's; made once in a process."""
    images, labels = sklearn_digits()
    return np.stack([enlarged(image, side) for image in images]), labels


def enlarged(image: NDArray[np.uint8], side: int = 28) -> NDArray[np.uint8]:
    """Enlarge an image (8, 8) bilinearly to (side, side), in a frame as wide as MNIST's: 4 of 28 pixels."""
    frame = round(side * 4 / 28)
    box = side - 2 * frame
    return np.pad(np.asarray(Image.fromarray(image).resize((box, box), Image.Resampling.BILINEAR)), frame)


def mnist_files(name: str, data_dir: Path | None, folder: str) -> tuple[Path, ...]:
    """MNIST's four files, with or without `.gz`: training images and labels, test images and labels.

    Raises `UserError` that names all that are missing and where to put them.
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
    """Compare the heads of MNIST's files with the (n, H, W) that all images must have together."""
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
    """The digits of MNIST's four files; read once in a process. Raises `UserError` naming a file that is damaged."""
    images, labels = (np.concatenate([read_idx(path, ndim) for path in files[i::2]]) for i, ndim in ((0, 3), (1, 1)))
    return images, labels.astype(np.int64)


def read_idx(path: Path, ndim: int) -> NDArray[np.uint8]:
    """The array of bytes in an idx file with `ndim` dimensions; raises `UserError` if it is not one, or damaged."""
    shape = _read_head(path, ndim)
    content = _read(path, None)[4 + 4 * ndim :]
    if len(content) != math.prod(shape):
        raise UserError(f"{path} is damaged: {len(content):,} bytes of data where its head says {math.prod(shape):,}")
    return np.frombuffer(content, np.uint8).reshape(shape)


def _read_head(path: Path, ndim: int) -> tuple[int, ...]:
    """The shape that an idx file's head states: 0, 0, type 8 (bytes), ndim, then one big-endian int32 a dimension."""
    head = _read(path, 4 + 4 * ndim)
    if len(head) < 4 + 4 * ndim or head[:4] != bytes((0, 0, 8, ndim)):
        raise UserError(f"{path} is not an idx file of bytes with {ndim} dimension(s)")
    return tuple(np.frombuffer(head[4:], ">i4").tolist())


def _read(path: Path, size: int | None) -> bytes:
    """The first `size` bytes, or all, of what may be packed."""
    opener: Any = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            content: bytes = file.read(size)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} can't be read: {error}") from error
    return content
