"""Read image files as the training of a model read them, and find them by folder, pattern or csv."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dgbench.data.decoding import Decoding, to_rgb
from dgbench.data.transforms_pil import resize
from dgbench.models.facts import Preprocessing


def read_image(source: Path | str | Image.Image, how: Preprocessing) -> NDArray[np.uint8]:
    """Return an image as the input of a network, before it is normalized.

    Args:
        source: Path of a file, or an image in memory.
        how: The model's way of reading images.

    Returns:
        (channels, height, width), uint8.

    Raises:
        UserError: The file can't be decoded; with its path and the reason.
    """
    if isinstance(source, Image.Image):
        image = to_rgb(source, on_white=how.on_white)
    else:
        image = Decoding(turn=how.turn, on_white=how.on_white, advice="repair it, or leave it out")(Path(source))
    if how.channels == 1:
        gray = resize(image.convert("L"), how.height, how.width, how.interpolation)
        return np.asarray(gray)[None]
    pixels: NDArray[Any]
    if how.resize == "opencv":
        from dgbench.data import transforms_cv2  # OpenCV is slow to import, and often not needed

        pixels = transforms_cv2.resize(np.asarray(image), how.height, how.width, how.interpolation)
    else:
        pixels = np.asarray(resize(image, how.height, how.width, how.interpolation))
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def read_images(sources: Sequence[Path | str | Image.Image], how: Preprocessing) -> NDArray[np.uint8]:
    """Return several images as an array (n, channels, height, width), uint8; raise as `read_image` does."""
    found = np.empty((len(sources), how.channels, how.height, how.width), np.uint8)
    for row, source in zip(found, sources, strict=True):
        row[...] = read_image(source, how)
    return found
