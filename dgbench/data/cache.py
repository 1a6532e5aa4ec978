"""Read caches of decoded images, and build those that are not there.

Imports OpenCV and Pillow only inside functions: planning asks this module, and does without them.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from dgbench.core.errors import UserError
from dgbench.data.cache_format import PIXELS, SIZES, SIZES_OF_ONE, CacheIndex, ImageCache, read_sizes
from dgbench.data.dataset import DOMAINBED, Dataset, Examples, Recipe


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
    """Build a cache unless it is there; raise as `open_images` does."""
    if CacheIndex.read(cache.folder) is None:
        from dgbench.data.cache_build import build

        build(cache)


def open_images(cache: ImageCache) -> CachedImages:
    """Open a cache's images; build it if it is not there, or wait while another process does.

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
            raise UserError(f"the cache of images {folder} is gone")
        self.folder, self.index = folder, index
        found = [(folder / name).stat().st_size if (folder / name).is_file() else -1 for name in (PIXELS, SIZES)]
        if found != [index.size, index.count * SIZES_OF_ONE]:
            raise UserError(f"the cache of images {folder} is damaged: remove it, and it is built again")
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
            raise UserError(f"the cache of images {self.folder} is damaged: remove it, and it is built again")
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
        from dgbench.data.transforms_cv2 import augmented, resized, split
        from dgbench.data.transforms_pil import draw

        how = self.index.interpolation
        inputs = np.empty((len(rows), 3, height, width), np.uint8)
        for channels, row in zip(inputs, rows.tolist(), strict=True):
            image = self[row]
            w, h = map(int, self.sizes[row, :2])
            if rng is None or recipe.resize_first:
                image, w, h = resized(image, height, width, how), width, height
            if rng is None:
                split(image, channels)
                continue
            scale = image.shape[1] / w, image.shape[0] / h
            split(augmented(image, draw(w, h, rng, recipe), height, width, scale, how), channels)
        return inputs
