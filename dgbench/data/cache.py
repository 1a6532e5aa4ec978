"""Read caches of decoded images, and build those that are not there.

Imports OpenCV and Pillow only inside functions: planning asks this module, and does without them.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from dgbench.core.errors import UserError
from dgbench.data.cache_format import INDEX, PIXELS, CacheIndex, ImageCache, find_damage, read_sizes
from dgbench.data.dataset import DOMAINBED, Dataset, Examples, Recipe
from dgbench.store.sealed import CorruptFile

SAMPLED = 4
"""Blocks of a cache that are compared with their checksums whenever it is opened."""


@runtime_checkable
class Cacheable(Protocol):
    """Examples that are read from image files, or from a cache of them."""

    @property
    def mapped(self) -> bool:
        """Whether they are read from a cache of bytes, without decoding."""
        ...

    def cached(self) -> Examples:
        """The same examples, read from the cache, which is built if it is not there."""
        ...


@runtime_checkable
class CachedDataset(Protocol):
    """A data set whose images can be cached."""

    cache_dir: Path | None
    """The folder of caches that the user named, if any."""

    def image_cache(self) -> ImageCache:
        """The cache of all its images."""
        ...


def build_cache(dataset: Dataset) -> None:
    """Build a data set's cache, if it has images and no cache yet; call it before the runs that share it."""
    if isinstance(dataset, CachedDataset):
        ensure_built(dataset.image_cache())


def ensure_built(cache: ImageCache) -> None:
    """Build a cache unless it is there, and whole as far as a sample tells; raise as `open_images` does."""
    from dgbench.data import cache_build  # imports OpenCV and Pillow, as said above

    if damage := damage_of(cache.folder, SAMPLED):
        cache_build.discard(cache.folder, cache.name, damage)
    if damage or CacheIndex.read(cache.folder) is None:
        cache_build.build(cache)


def damage_of(folder: Path, most: int | None = None) -> str:
    """Describe the damage of a cache; empty if there is none, or it isn't finished. Read `most` blocks; None: all."""
    try:
        index = CacheIndex.read(folder)
    except CorruptFile as error:
        return str(error)
    return find_damage(folder, index, most) if index else ""


def verify_caches(dataset: Dataset) -> tuple[int, list[str]]:
    """Read every block of all caches of a data set, at any size; remove damaged ones, so that they are built again.

    Returns:
        How many caches there are, and what is wrong with those that were removed.
    """
    if not isinstance(dataset, CachedDataset):
        return 0, []
    from dgbench.data.cache_build import discard  # see `ensure_built`

    own, found, wrong = dataset.image_cache(), 0, list[str]()
    for folder in sorted(path.parent for path in own.place.glob(f"*/{INDEX}")):
        damage = damage_of(folder)
        with suppress(CorruptFile):  # of which a damaged index doesn't say whose it is
            index = CacheIndex.read(folder)
            if index is None or index.name != own.name:
                continue
        found += 1
        if damage:
            discard(folder, own.name, damage)
            wrong.append(damage)
    return found, wrong


def open_images(cache: ImageCache) -> CachedImages:
    """Open a cache's images; build it if it is not there or damaged, or wait while another process does.

    Raises `UserError` if an image can't be decoded, or the folder can't be written to or is full.
    """
    ensure_built(cache)
    return CachedImages(cache.folder)


class CachedImages:
    """The images of a finished cache, mapped into memory; [row] -> (h, w, 3) uint8 as they are kept.

    Copies that go to other processes map the files anew. Raises `UserError` if files are not what the index says.
    """

    def __init__(self, folder: Path) -> None:
        import cv2

        cv2.setNumThreads(1)  # runs and loader processes share the cores already
        index = CacheIndex.read(folder)
        if index is None:
            raise UserError(f"the cache of images {folder} is gone: `dgbench sweep retry` builds it again")
        self.folder, self.index = folder, index
        self.sizes = read_sizes(folder)
        pixels = np.asarray(np.memmap(folder / PIXELS, np.uint8, "r"))
        self.pixels = pixels.reshape(index.count, index.height, index.width, 3) if self.mapped else pixels

    def __reduce__(self) -> tuple[type[CachedImages], tuple[Path]]:
        return CachedImages, (self.folder,)

    @property
    def mapped(self) -> bool:
        """Whether they are bytes that need no decoding."""
        return self.index.kind == "bytes"

    @cached_property
    def ends(self) -> NDArray[np.int64]:
        """Where each JPEG ends in `pixels`."""
        return np.cumsum(self.sizes[:, 2], dtype=np.int64)

    def __getitem__(self, row: int) -> NDArray[Any]:
        if self.mapped:
            image: NDArray[Any] = self.pixels[row]
            return image
        from dgbench.data.transforms_cv2 import from_jpeg

        end = self.ends[row]
        found = from_jpeg(self.pixels[end - self.sizes[row, 2] : end])
        if found is None:
            raise UserError(f"the cache of images {self.folder} is damaged: remove it, and `dgbench sweep retry`")
        return found

    def batch(
        self,
        rows: NDArray[np.int64],
        height: int,
        width: int,
        rng: np.random.Generator | None,
        recipe: Recipe = DOMAINBED,
    ) -> NDArray[np.uint8]:
        """Read images at one size, as they are or augmented with the draws of `transforms_pil`.

        Args:
            rows: (B,) of the cache.
            height: Of each result.
            width: Of each result.
            rng: Draws the augmentations, in the order of `rows`; None: none are applied.
            recipe: Which operations are drawn.

        Returns:
            (B, 3, height, width).
        """
        from dgbench.data.transforms_cv2 import augment, resize, split
        from dgbench.data.transforms_pil import draw

        how = self.index.interpolation
        inputs = np.empty((len(rows), 3, height, width), np.uint8)
        for channels, row in zip(inputs, rows.tolist(), strict=True):
            image = self[row]
            w, h = map(int, self.sizes[row, :2])
            if rng is None or recipe.resize_first:
                image, w, h = resize(image, height, width, how), width, height
            if rng is None:
                split(image, channels)
                continue
            scale = image.shape[1] / w, image.shape[0] / h
            split(augment(image, draw(w, h, rng, recipe), height, width, scale, how), channels)
        return inputs
