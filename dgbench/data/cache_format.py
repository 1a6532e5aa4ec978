"""Define the files of a cache of decoded images, each decoded once for all runs and processes that share a folder.

A data set's cache is a folder of three files, and is there once the last of them is:

    pixels      the images, one after the other: bytes (h, w, 3) of RGB, or files of JPEG
    sizes       of each image: width and height of its original, and bytes in `pixels`; uint32 (n, 3), little-endian
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
import orjson
from numpy.typing import NDArray

if TYPE_CHECKING:
    from dgbench.data.decoding import Decoding

FOLDER = ".dgbench-cache"
"""Name of the folder of caches, in the data directory unless the user names another."""
LARGEST_OWN, LARGEST = 30 * 10**9, 10 * 10**9
"""Most bytes of a cache that is not of JPEGs: of images as they are, and of squashed ones.

JPEGs have more of an image than what it was squashed to has; but less than the image itself, so that is worth more.
"""
VERSION = 2
"""Of what is cached, and how: a change of either makes another cache."""
PIXELS, SIZES, INDEX = "pixels", "sizes", "index.json"
_SIZE = np.dtype("<u4")
SIZES_OF_ONE = 3 * _SIZE.itemsize
"""Bytes in `sizes` for each image."""


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

    @staticmethod
    def read(folder: Path) -> CacheIndex | None:
        """Return the index of a finished cache; None if it isn't finished."""
        try:
            return CacheIndex(**orjson.loads((folder / INDEX).read_bytes()))
        except (FileNotFoundError, NotADirectoryError):
            return None

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


def size_bytes(sizes: Sequence[tuple[int, int, int]]) -> bytes:
    """Encode sizes as the file of sizes holds them."""
    return np.array(sizes, _SIZE).tobytes()
