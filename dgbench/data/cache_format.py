"""Define the files of a cache of decoded images, which all runs and processes that see its folder share.

Each image is decoded once. A data set's cache is a folder of four files:

    pixels      the images, one after the other: (h, w, 3) bytes of RGB each, or JPEG files
    sizes       by image: width and height of its original, and its bytes in `pixels`; (n, 3) uint32, little-endian
    sums        by block of images: the sha256 of its piece of `pixels` followed by its piece of `sizes`, 32 bytes
    index.json  how `pixels` is read; written last, so that a cache with it is complete

An image is kept as bytes in its own size if all images have that size and it is not larger than needed; else squashed
to the size of the inputs. Where the bytes would exceed `LARGEST_OWN` or `LARGEST`, JPEGs are kept, with a short side a
little larger than the inputs'; a file that is such a JPEG already is kept as it is. Boxes of crops are drawn in the
size of the original, so that crops are distributed as without a cache.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from dgbench.core.plain import from_plain
from dgbench.store.files import making_sense_of, read_object

if TYPE_CHECKING:
    from dgbench.data.decoding import Decoding

FOLDER = ".dgbench-cache"
"""Name of the folder of caches in the data directory, unless the user names another."""
LARGEST_OWN, LARGEST = 30 * 10**9, 10 * 10**9
"""Most bytes of a cache of images in their own size, and of squashed images; beyond, JPEGs are kept.

A JPEG of a larger size preserves more of an image than squashed bytes, but less than the image itself, which therefore
has the larger limit.
"""
VERSION = 3
"""Version of the format and of the decoding; a new one makes new caches."""
PIXELS, SIZES, SUMS, INDEX = "pixels", "sizes", "sums", "index.json"
_SIZE = np.dtype("<u4")
SIZES_OF_ONE = 3 * _SIZE.itemsize
"""Bytes of an image in `sizes`."""
SUM = hashlib.sha256().digest_size
"""Bytes of a block in `sums`."""


@dataclass(frozen=True)
class CacheIndex:
    """The content of `index.json`: how the pixels of a cache are read."""

    name: str
    """Name of the data set, for users and for `verify_caches`."""
    count: int
    """Number of images."""
    kind: Literal["bytes", "jpeg"]
    """`bytes`: RGB, all of one size. `jpeg`: files of any size."""
    height: int
    """Height of every image in pixels; of JPEGs, the short side."""
    width: int
    """Width of every image in pixels; of JPEGs, the short side."""
    size: int
    """Bytes of `pixels`."""
    interpolation: str
    """How images were squashed, and will be resized when read. The short side of JPEGs is made by bicubic, whatever
    this is."""
    block: int
    """Images that share a checksum."""

    @staticmethod
    def read(folder: Path) -> CacheIndex | None:
        """Read the index of a cache: None if the cache isn't complete; raise `CorruptFile` if the index is damaged."""
        try:
            data = read_object(folder / INDEX)
        except FileNotFoundError:
            return None
        with making_sense_of(folder / INDEX):
            index = from_plain(CacheIndex, data)
            if min(index.count, index.height, index.width, index.size, index.block) < 1:
                raise ValueError("it has sizes below 1")
            if index.kind == "bytes" and index.size != index.count * index.height * index.width * 3:
                raise ValueError("its sizes don't fit together")
        return index

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain JSON."""
        return asdict(self)


@dataclass(frozen=True)
class ImageCache:
    """A cache of a data set's images, at one size and by one interpolation, built or not."""

    place: Path
    """Folder of all caches."""
    name: str
    """Name of the data set."""
    identity: str
    """Text that is equal for the same images in the same order, and for no others."""
    root: Path
    """Folder that the image files are below."""
    files: Callable[[], Sequence[str]]
    """List the image files as paths below the root; called only when the cache is built."""
    height: int
    """Height of inputs, in pixels."""
    width: int
    """Width of inputs, in pixels."""
    interpolation: str
    """`bilinear` or `bicubic`."""
    decode: Decoding
    """Decodes an image file."""

    @property
    def folder(self) -> Path:
        """Return the folder of this cache: its name is a hash of all that decides the pixels."""
        said = f"{self.identity}\0{self.height}\0{self.width}\0{self.interpolation}\0{VERSION}"
        # The default adds nothing, so that caches from before there was a choice are found.
        if self.decode.identity:
            said += f"\0{self.decode.identity}"
        return self.place / hashlib.sha256(said.encode()).hexdigest()[:24]

    def paths(self) -> list[Path]:
        """List the image files."""
        return [self.root / file for file in self.files()]


def read_sizes(folder: Path) -> NDArray[np.uint32]:
    """Read the sizes of the images that are complete so far.

    Returns:
        (n, 3), uint32: width and height of the original, bytes in `pixels`. A row that was only begun is left out.
    """
    content = np.fromfile(folder / SIZES, _SIZE)
    return content[: len(content) // 3 * 3].reshape(-1, 3)


def checksum(pixels: bytes, sizes: bytes) -> bytes:
    """Return the sha256 of a block of images: of its piece of `pixels`, then of its piece of `sizes`."""
    return hashlib.sha256(pixels + sizes).digest()


def find_damage(folder: Path, index: CacheIndex, most: int | None = None) -> str:
    """Compare blocks of images with their checksums, and return a description of the first damage.

    Args:
        folder: The cache's.
        index: Its index.
        most: Blocks to read: the first, the last, and others at random; None: all.

    Returns:
        A sentence for the user; empty if nothing is wrong.
    """
    blocks = -(-index.count // index.block)
    expected = {PIXELS: index.size, SIZES: index.count * SIZES_OF_ONE, SUMS: blocks * SUM}
    for name, size in expected.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size:
            return f"{path} is damaged: it does not have {size:,} bytes"
    chosen = set(range(blocks))
    if most is not None and blocks > most:
        # Not drawn by a run's seed: each run looks at other blocks, so that many runs together look at all.
        chosen = {0, blocks - 1, *map(int, np.random.default_rng().choice(blocks, most - 2, replace=False))}
    sizes, sums = read_sizes(folder), (folder / SUMS).read_bytes()
    ends = np.concatenate(([0], np.cumsum(sizes[:, 2], dtype=np.int64)))
    with open(folder / PIXELS, "rb") as file:
        for block in sorted(chosen):
            first, last = block * index.block, min((block + 1) * index.block, index.count)
            file.seek(int(ends[first]))
            content = file.read(int(ends[last] - ends[first]))
            if checksum(content, sizes[first:last].tobytes()) != sums[block * SUM : (block + 1) * SUM]:
                return f"{folder / PIXELS} is damaged: images {first:,} to {last - 1:,} are not what was decoded"
    return ""


def size_bytes(sizes: Sequence[tuple[int, int, int]]) -> bytes:
    """Encode sizes (width, height, bytes) as rows of the file `sizes`."""
    return np.array(sizes, _SIZE).tobytes()
