"""Apply DomainBed's image transforms to PIL images: the one for evaluation, and the one that augments.

This is the reference for any faster path: each operation equals torchvision's on PIL images with the same parameters.
Drawing is separate from applying, so that another path can apply the same draws. DomainBed resizes by bilinear
interpolation; the backbone's own, as torchvision and timm use it, can be chosen instead.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageEnhance

from dgbench.data.dataset import DOMAINBED, Recipe

CROP_AREA, CROP_RATIO = (0.7, 1.0), (3 / 4, 4 / 3)
"""Range of a crop's share of the area, and of its width divided by its height."""
JITTER = 0.3
"""Largest change of brightness, contrast and saturation as a factor, and of hue as a share of the circle."""
GRAY_PROBABILITY = 0.1
"""Probability that an image is turned to gray."""
_CROP_TRIES = 10

FILTERS: Mapping[str, Image.Resampling] = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
"""Interpolation -> Pillow's filter; both antialias."""

Box = tuple[int, int, int, int]
"""Left, upper, right, lower, in pixels; the last two are just outside."""


class Augmentation(NamedTuple):
    """One draw of DomainBed's training transform, for an image of a given size."""

    box: Box
    """The crop."""
    flip: bool
    """Mirror left and right."""
    factors: tuple[float, float, float]
    """Of brightness, contrast and saturation; 1 changes nothing."""
    turn: float
    """Of the hue circle, in [-0.5, 0.5]."""
    order: tuple[int, ...]
    """Order of the color operations: 0 to 2 as in `factors`, 3 is hue."""
    gray: bool
    """Turn to gray at last."""


def resize(image: Image.Image, height: int, width: int, interpolation: str = "bilinear") -> Image.Image:
    """Squash the whole image to `height` x `width`, with antialiasing.

    Args:
        image: The image.
        height: Of the result, in pixels.
        width: Of the result, in pixels.
        interpolation: A name in `FILTERS`.
    """
    return image.resize((width, height), FILTERS[interpolation])


def augment(
    image: Image.Image,
    height: int,
    width: int,
    rng: np.random.Generator,
    recipe: Recipe = DOMAINBED,
    interpolation: str = "bilinear",
) -> Image.Image:
    """Apply DomainBed's training transform to an RGB image: resized crop, flip, color jitter, now and then gray.

    Args:
        image: Of any size.
        height: Of the result, in pixels.
        width: Of the result, in pixels.
        rng: Draws the transform.
        recipe: The operations to draw, and whether the image is resized before the crop.
        interpolation: A name in `FILTERS`.
    """
    if recipe.resize_first:
        image = resize(image, height, width, interpolation)
    drawn = draw(image.width, image.height, rng, recipe)
    image = resize(image.crop(drawn.box), height, width, interpolation)
    if drawn.flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    image = jitter(image, drawn)
    return gray(image) if drawn.gray else image


def draw(width: int, height: int, rng: np.random.Generator, recipe: Recipe = DOMAINBED) -> Augmentation:
    """Draw the training transform of an image of a given size.

    Color factors are in [0.7, 1.3], turns of the hue circle in [-0.3, 0.3].

    Args:
        width: Of the image, in pixels.
        height: Of the image, in pixels.
        rng: The only source of chance.
        recipe: Without `crop`, the box is the whole image and nothing is drawn for it.
    """
    # The calls of `rng` and their order decide the result of every run that augments: a change moves them all.
    box = crop_box(width, height, rng) if recipe.crop else (0, 0, width, height)
    flip = rng.random() < 0.5
    brightness, contrast, saturation = map(float, rng.uniform(1 - JITTER, 1 + JITTER, size=3))
    turn = float(rng.uniform(-JITTER, JITTER))
    order = tuple(map(int, rng.permutation(4)))
    return Augmentation(
        box, flip, (brightness, contrast, saturation), turn, order, gray=rng.random() < GRAY_PROBABILITY
    )


def crop_box(width: int, height: int, rng: np.random.Generator) -> Box:
    """Draw a box with a random share of the area, aspect ratio and place, as torchvision's RandomResizedCrop does.

    If ten draws don't fit into the image, the box is the largest centered one of an allowed ratio.

    Args:
        width: Of the image, in pixels.
        height: Of the image, in pixels.
        rng: Draws area and ratio, up to ten times, then the place.
    """
    for _ in range(_CROP_TRIES):
        area = width * height * rng.uniform(*CROP_AREA)
        ratio = math.exp(rng.uniform(math.log(CROP_RATIO[0]), math.log(CROP_RATIO[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            upper, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
            return left, upper, left + w, upper + h
    w, h = min(width, round(height * CROP_RATIO[1])), min(height, round(width / CROP_RATIO[0]))
    left, upper = (width - w) // 2, (height - h) // 2
    return left, upper, left + w, upper + h


def jitter(image: Image.Image, drawn: Augmentation) -> Image.Image:
    """Change brightness, contrast, saturation and hue as drawn, in the order drawn."""
    amounts = (*drawn.factors, drawn.turn)
    for operation in drawn.order:
        image = (brightness, contrast, saturation, hue)[operation](image, amounts[operation])
    return image


def brightness(image: Image.Image, factor: float) -> Image.Image:
    """Blend with black: 0 is black, 1 the image."""
    return ImageEnhance.Brightness(image).enhance(factor)


def contrast(image: Image.Image, factor: float) -> Image.Image:
    """Blend with the image's mean gray level: 0 is that level, 1 the image."""
    return ImageEnhance.Contrast(image).enhance(factor)


def saturation(image: Image.Image, factor: float) -> Image.Image:
    """Blend with the image in gray: 0 is gray, 1 the image."""
    return ImageEnhance.Color(image).enhance(factor)


def hue(image: Image.Image, turn: float) -> Image.Image:
    """Turn every color around the hue circle by `turn` in [-0.5, 0.5] of a full turn."""
    # 255 steps around the circle and truncated, as torchvision does, although there are 256 levels.
    shift = int(turn * 255)
    h, s, v = image.convert("HSV").split()
    h = h.point([(level + shift) % 256 for level in range(256)])
    return Image.merge("HSV", (h, s, v)).convert("RGB")


def gray(image: Image.Image) -> Image.Image:
    """Write the luminance to all three channels."""
    return image.convert("L").convert("RGB")
