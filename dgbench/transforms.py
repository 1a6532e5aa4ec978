"""DomainBed's image transforms on PIL images: one for evaluation, and one that augments, with a generator it is given.

This is the reference for any faster path: each operation equals torchvision's on PIL images of the same parameters.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageEnhance

CROP_AREA, CROP_RATIO = (0.7, 1.0), (3 / 4, 4 / 3)
JITTER = 0.3
GRAY_PROBABILITY = 0.1
_CROP_TRIES = 10

Box = tuple[int, int, int, int]
"""Left, upper, right, lower, in pixels; the last two are outside."""


def resized(image: Image.Image, height: int, width: int) -> Image.Image:
    """The whole image squashed to `height` x `width`, bilinear with antialiasing."""
    return image.resize((width, height), Image.Resampling.BILINEAR)


def augmented(image: Image.Image, height: int, width: int, rng: np.random.Generator) -> Image.Image:
    """DomainBed's training transform of an RGB image: resized crop, flip, colour jitter, now and then gray."""
    image = resized(image.crop(crop_box(image.width, image.height, rng)), height, width)
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    image = jittered(image, rng)
    return gray(image) if rng.random() < GRAY_PROBABILITY else image


def crop_box(width: int, height: int, rng: np.random.Generator) -> Box:
    """A box with a random share of the area, aspect ratio and place, as torchvision's RandomResizedCrop draws it.

    Where ten draws do not fit into the image, the largest centred box whose ratio is allowed.
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


def jittered(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Brightness, contrast, saturation by factors in [0.7, 1.3] and hue by [-0.3, 0.3] of a turn, in random order."""
    factors = rng.uniform(1 - JITTER, 1 + JITTER, size=3)
    turn = float(rng.uniform(-JITTER, JITTER))
    for operation in rng.permutation(4):
        if operation == 3:
            image = hue(image, turn)
        else:
            image = (brightness, contrast, saturation)[operation](image, float(factors[operation]))
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
    """Turn every colour around the hue circle by `turn` in [-0.5, 0.5] of a full turn."""
    shift = int(turn * 255)
    h, s, v = image.convert("HSV").split()
    h = h.point([(level + shift) % 256 for level in range(256)])
    return Image.merge("HSV", (h, s, v)).convert("RGB")


def gray(image: Image.Image) -> Image.Image:
    """The luminance in all three channels."""
    return image.convert("L").convert("RGB")
