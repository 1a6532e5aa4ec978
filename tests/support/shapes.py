"""A folder of toy images, domain/class/image: shapes in three domains, easy enough to be learned in a few steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

DOMAINS, CLASSES = ("clear", "dim", "noisy"), ("bar", "cross", "disk")


def make_shapes(folder: Path, each: int = 8, height: int = 36, width: int = 44) -> Path:
    """Write `each` images of each class in each domain; every other one is of another size, some are transparent."""
    rng = np.random.default_rng(0)
    for domain in DOMAINS:
        for name in CLASSES:
            place = folder / domain / name
            place.mkdir(parents=True)
            for number in range(each):
                h, w = height + 6 * (number % 2), width - 8 * (number % 2)
                image = _shape(rng, name, h, w)
                image = (image * (0.5 if domain == "dim" else 1)).astype(np.uint8)
                if domain == "noisy":
                    image = np.clip(image + rng.normal(0, 40, image.shape), 0, 255).astype(np.uint8)
                alpha = np.full((h, w, 1), 200 if number == 3 else 255, np.uint8)
                Image.fromarray(np.concatenate([image, alpha], axis=2)).save(place / f"{number}.png")
    return folder


def _shape(rng: np.random.Generator, name: str, height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    cy, cx = rng.integers(13, height - 13), rng.integers(13, width - 13)
    masks = {
        "disk": (y - cy) ** 2 + (x - cx) ** 2 < 100,
        "bar": abs(y - cy) < 5,
        "cross": (abs(y - cy) < 4) | (abs(x - cx) < 4),
    }
    image = np.full((height, width, 3), 30, np.uint8)
    image[masks[name]] = rng.integers(120, 255, 3)
    return image
