"""Read caches of decoded images, and build those that are missing or damaged.

Runs call `open_images`, a launch `build_cache` before it starts them, and the command `download` `verify_caches`.
Imports OpenCV and Pillow only inside functions: planning imports this module and does without them.
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
        """Return whether they are read from a cache of bytes, without decoding."""
        ...

    def cached(self) -> Examples:
        """Return the same examples read from the cache, which is built first if it is missing."""
        ...


@runtime_checkable
class CachedDataset(Protocol):
    """A data set whose images can be cached."""

    cache_dir: Path | None
    """Folder of caches that the user named; None: the default, `cache_format.FOLDER` beside the data."""

    def image_cache(self) -> ImageCache:
        """Return the cache of all its images, built or not."""
        ...


def build_cache(dataset: Dataset) -> None:
    """Build the cache of a data set of images, if it is missing; call it before starting runs that share it."""
    if isinstance(dataset, CachedDataset):
        ensure_built(dataset.image_cache())


def ensure_built(cache: ImageCache) -> None:
    """Build a cache if it is missing, or damaged in a sample of its blocks; raise as `open_images` does."""
    from dgbench.data import cache_build  # which imports OpenCV and Pillow

    if damage := damage_of(cache.folder, SAMPLED):
        cache_build.discard(cache.folder, cache.name, damage)
    if damage or CacheIndex.read(cache.folder) is None:
        cache_build.build(cache)


def damage_of(folder: Path, most: int | None = None) -> str:
    """Return a description of a cache's damage; empty if there is none, or the cache isn't complete.

    Args:
        folder: The cache's.
        most: Blocks to read; None: all.
    """
    try:
        index = CacheIndex.read(folder)
    except CorruptFile as error:
        return str(error)
    return find_damage(folder, index, most) if index else ""


def verify_caches(dataset: Dataset) -> tuple[int, list[str]]:
    """Read every block of all caches of a data set, at any size of images, and remove the damaged ones.

    They are built again when they are next needed.

    Returns:
        The number of caches, and for each that was removed what was wrong with it.
    """
    if not isinstance(dataset, CachedDataset):
        return 0, []
    from dgbench.data.cache_build import discard  # which imports OpenCV and Pillow

    own, found, wrong = dataset.image_cache(), 0, list[str]()
    for folder in sorted(path.parent for path in own.place.glob(f"*/{INDEX}")):
        damage = damage_of(folder)
        # A damaged index doesn't name its data set, so such a cache is removed whatever it holds.
        with suppress(CorruptFile):
            index = CacheIndex.read(folder)
            if index is None or index.name != own.name:
                continue
        found += 1
        if damage:
            discard(folder, own.name, damage)
            wrong.append(damage)
    return found, wrong


def open_images(cache: ImageCache) -> CachedImages:
    """Open the images of a cache; first build it if it is missing or damaged, or wait while another process does.

    Raises:
        UserError: An image can't be decoded, or the folder is full or can't be written to.
    """
    ensure_built(cache)
    return CachedImages(cache.folder)


class CachedImages:
    """The images of a complete cache, mapped into memory: `images[row]` is (h, w, 3) uint8, RGB, as it was kept.

    Pickling keeps the folder alone, so that loader processes map the files anew instead of receiving the pixels.

    Args:
        folder: The cache's.

    Raises:
        UserError: The cache is gone.
    """

    def __init__(self, folder: Path) -> None:
        import cv2

        cv2.setNumThreads(1)  # runs and loader processes share the cores already
        index = CacheIndex.read(folder)
        if index is None:
            raise UserError(f"the cache of images {folder} is gone: `dgbench sweep retry` builds it again")
        self.folder, self.index = folder, index
        self.sizes = read_sizes(folder)
        # An ordinary array over the mapping: np.memmap runs Python code for every slice.
        pixels = np.asarray(np.memmap(folder / PIXELS, np.uint8, "r"))
        self.pixels = pixels.reshape(index.count, index.height, index.width, 3) if self.mapped else pixels

    def __reduce__(self) -> tuple[type[CachedImages], tuple[Path]]:
        return CachedImages, (self.folder,)

    @property
    def mapped(self) -> bool:
        """Return whether the images are bytes that need no decoding."""
        return self.index.kind == "bytes"

    @cached_property
    def ends(self) -> NDArray[np.int64]:
        """Return where each JPEG ends in `pixels`, (n,), int64."""
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
        """Read images at one size, as they are or augmented by the draws of `transforms_pil`.

        Args:
            rows: (B,) rows of the cache.
            height: Of each result, in pixels.
            width: Of each result, in pixels.
            rng: Draws the augmentations, in the order of `rows`; None: images are only squashed.
            recipe: The operations drawn.

        Returns:
            (B, 3, height, width), uint8.
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
            # Boxes are drawn in the size of the original, as without a cache, and scaled to the copy that was kept.
            scale = image.shape[1] / w, image.shape[0] / h
            split(augment(image, draw(w, h, rng, recipe), height, width, scale, how), channels)
        return inputs
