"""Define the files of a cache of decoded images, each decoded once for all runs and processes that share a folder.

A data set's cache is a folder of four files, and is there once the last of them is:

    pixels      the images, one after the other: bytes (h, w, 3) of RGB, or files of JPEG
    sizes       of each image: width and height of its original, and bytes in `pixels`; uint32 (n, 3), little-endian
    sums        of each block of images: the sha256 of its part of `pixels` and then of `sizes`, 32 bytes
    index.json  how `pixels` is to be read

Bytes are the image's own where all have one size that is not larger than needed, else the image squashed to the size
that is asked for. Where they would take more than `LARGEST_OWN` or `LARGEST`, JPEGs keep a short side a little larger
than that size; a file that is such a JPEG already is kept as it is. Boxes of crops are drawn in the size of the
original, so that crops are distributed as without a cache.
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
"""Name of the folder of caches, in the data directory unless the user names another."""
LARGEST_OWN, LARGEST = 30 * 10**9, 10 * 10**9
"""Most bytes of a cache that is not of JPEGs: of images as they are, and of squashed ones.

JPEGs have more of an image than what it was squashed to has; but less than the image itself, so that is worth more.
"""
VERSION = 3
"""Of what is cached, and how: a change of either makes another cache."""
PIXELS, SIZES, SUMS, INDEX = "pixels", "sizes", "sums", "index.json"
_SIZE = np.dtype("<u4")
SIZES_OF_ONE = 3 * _SIZE.itemsize
"""Bytes in `sizes` for each image."""
SUM = hashlib.sha256().digest_size
"""Bytes in `sums` for each block."""


@dataclass(frozen=True)
class CacheIndex:
    """The content of `index.json`: how the pixels of a cache are read."""

    name: str
    """Of the data set, for people who look."""
    count: int
    kind: Literal["bytes", "jpeg"]
    height: int
    """Of every image, if they are bytes; else the short side."""
    width: int
    size: int
    """Bytes of `pixels`."""
    interpolation: str
    """How they were and are resized, but for the short side of JPEGs, which is bicubic."""
    block: int
    """Images that have one checksum."""

    @staticmethod
    def read(folder: Path) -> CacheIndex | None:
        """Return the index of a finished cache: None if it isn't finished; raise `CorruptFile` if it is damaged."""
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
        """Plain JSON."""
        return asdict(self)


@dataclass(frozen=True)
class ImageCache:
    """The cache of a data set's images at one size and by one interpolation, built or not."""

    place: Path
    """The folder of caches."""
    name: str
    identity: str
    """Equal for the same images in the same order, and for no others."""
    root: Path
    files: Callable[[], Sequence[str]]
    """Lists the image files, as paths below the root; called when the cache is built."""
    height: int
    width: int
    interpolation: str
    decode: Decoding

    @property
    def folder(self) -> Path:
        """The cache's own folder: its name is a hash of all that decides what is kept."""
        said = f"{self.identity}\0{self.height}\0{self.width}\0{self.interpolation}\0{VERSION}"
        if self.decode.identity:
            said += f"\0{self.decode.identity}"
        return self.place / hashlib.sha256(said.encode()).hexdigest()[:24]

    def paths(self) -> list[Path]:
        """List the image files."""
        return [self.root / file for file in self.files()]


def read_sizes(folder: Path) -> NDArray[np.uint32]:
    """Read (n, 3) of the images that are there so far: width and height of the original, bytes in `pixels`."""
    content = np.fromfile(folder / SIZES, _SIZE)
    return content[: len(content) // 3 * 3].reshape(-1, 3)


def checksum(pixels: bytes, sizes: bytes) -> bytes:
    """Hash a block of images, of which these are the parts of two files."""
    return hashlib.sha256(pixels + sizes).digest()


def find_damage(folder: Path, index: CacheIndex, most: int | None = None) -> str:
    """Compare blocks of images with their checksums.

    Args:
        folder: The cache's.
        index: Its index.
        most: How many blocks to read: the first, the last, and others at random; None: all.

    Returns:
        What is wrong; empty if nothing is.
    """
    blocks = -(-index.count // index.block)
    expected = {PIXELS: index.size, SIZES: index.count * SIZES_OF_ONE, SUMS: blocks * SUM}
    for name, size in expected.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size:
            return f"{path} is damaged: it has not {size:,} bytes"
    chosen = set(range(blocks))
    if most is not None and blocks > most:
        # Not by a run's seed: so that each run looks at others, and all of them at everything.
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
    """Encode sizes as the file of sizes holds them."""
    return np.array(sizes, _SIZE).tobytes()
