"""Apply the transforms of `transforms_pil` to arrays by OpenCV: equal up to rounding, ten times as fast.

Images are (H, W, 3) uint8, RGB. `tests/data/test_transforms_cv2.py` compares each operation with its reference.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dgbench.data.transforms_pil import FILTERS, Augmentation

Pixels = NDArray[Any]
"""(H, W, 3) uint8; typed loosely, since OpenCV's annotations leave the type of its arrays open."""

_MOST_SHRINKING = 1.02
"""Largest factor by which a box shrinks that OpenCV may interpolate, without antialiasing."""
_TRUNCATES = -0.499  # added before OpenCV rounds, so that it truncates as Pillow does
# On average: Pillow truncates hues that OpenCV rounds, and its circle has 255 levels where OpenCV's has 256.
_HUE_OF_PILLOW = -1


def from_jpeg(content: NDArray[np.uint8]) -> Pixels | None:
    """Decode the bytes of a JPEG, ignoring its EXIF orientation; return None if they can't be decoded."""
    found = cv2.imdecode(content, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    return None if found is None else cv2.cvtColor(found, cv2.COLOR_BGR2RGB)


def split(image: Pixels, channels: Pixels) -> None:
    """Write the channels of an image to `channels`, which is contiguous, (3, H, W) uint8."""
    cv2.split(image, list(channels))


def resize(image: Pixels, height: int, width: int, interpolation: str = "bilinear") -> Pixels:
    """Squash the whole image to `height` x `width`; return the image itself if it has that size.

    Args:
        image: The image.
        height: Of the result, in pixels.
        width: Of the result, in pixels.
        interpolation: A name in `FILTERS`.
    """
    if image.shape[:2] == (height, width):
        return image
    return crop(image, (0, 0, image.shape[1], image.shape[0]), height, width, interpolation)


def augment(
    image: Pixels,
    drawn: Augmentation,
    height: int,
    width: int,
    scale: tuple[float, float],
    interpolation: str = "bilinear",
) -> Pixels:
    """Apply a drawn training transform to an image.

    Args:
        image: The original, or a smaller copy of it.
        drawn: Drawn for the size of the original.
        height: Of the result, in pixels.
        width: Of the result, in pixels.
        scale: Width and height of `image` divided by those of the original.
        interpolation: A name in `FILTERS`.
    """
    (left, upper, right, lower), (x, y) = drawn.box, scale
    box = (left * x, upper * y, min(right * x, image.shape[1]), min(lower * y, image.shape[0]))
    image = crop(image, box, height, width, interpolation)
    if drawn.flip:
        image = cv2.flip(image, 1)
    amounts = (*drawn.factors, drawn.turn)
    for operation in drawn.order:
        image = (brightness, contrast, saturation, hue)[operation](image, amounts[operation])
    return gray(image) if drawn.gray else image


def crop(
    image: Pixels, box: tuple[float, float, float, float], height: int, width: int, interpolation: str = "bilinear"
) -> Pixels:
    """Squash a box of the image to `height` x `width`.

    OpenCV interpolates where the box grows. Pillow does where it shrinks by more than two percent: OpenCV has no
    antialiasing for boxes with fractions of pixels, and for whole ones it takes as long and is further from the
    reference. Bicubic is always Pillow's, as OpenCV's is another curve.

    Args:
        image: The image.
        box: Left, upper, right, lower, in pixels and fractions of them.
        height: Of the result, in pixels.
        width: Of the result, in pixels.
        interpolation: A name in `FILTERS`.
    """
    left, upper, right, lower = box
    if interpolation != "bilinear" or max((right - left) / width, (lower - upper) / height) > _MOST_SHRINKING:
        return np.asarray(Image.fromarray(image).resize((width, height), FILTERS[interpolation], box))
    if all(float(edge).is_integer() for edge in box):
        return cv2.resize(image[int(upper) : int(lower), int(left) : int(right)], (width, height))
    x, y = (right - left) / width, (lower - upper) / height
    # From the center of a pixel of the result to its place in the image, where pixel centers are whole numbers.
    matrix = np.array([[x, 0, left + (x - 1) / 2], [0, y, upper + (y - 1) / 2]])
    # OpenCV warps four channels three times as fast as three.
    four = cv2.cvtColor(image, cv2.COLOR_RGB2RGBA)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    warped = cv2.warpAffine(four, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB)


def brightness(image: Pixels, factor: float) -> Pixels:
    """Blend with black: 0 is black, 1 the image."""
    return cv2.convertScaleAbs(image, alpha=factor, beta=_TRUNCATES)


def contrast(image: Pixels, factor: float) -> Pixels:
    """Blend with the image's mean gray level: 0 is that level, 1 the image."""
    # Rounded, as Pillow rounds the mean level.
    level = int(cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[0] + 0.5)
    return cv2.addWeighted(image, factor, image, 0, level * (1 - factor) + _TRUNCATES)


def saturation(image: Pixels, factor: float) -> Pixels:
    """Blend with the image in gray: 0 is gray, 1 the image."""
    return cv2.addWeighted(image, factor, gray(image), 1 - factor, _TRUNCATES)


def hue(image: Pixels, turn: float) -> Pixels:
    """Turn every color around the hue circle by `turn` in [-0.5, 0.5] of a full turn."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    hsv[..., 0] += np.uint8((int(turn * 255) + _HUE_OF_PILLOW) % 256)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


def gray(image: Pixels) -> Pixels:
    """Write the luminance to all three channels."""
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
