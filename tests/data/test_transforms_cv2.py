from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from dgbench.data import transforms_cv2, transforms_pil
from tests.data.test_transforms_pil import FACTORS, TURNS
from tests.support.layouts import noise

ROUNDING = 0.5
"""Levels of 256 by which the two paths may differ in the mean over an image."""


@cache
def photos() -> list[Image.Image]:
    """Two photographs of 640 x 427, which scikit-learn brings along."""
    return [Image.fromarray(pixels) for pixels in load_sample_images().images]


def photo(seed: int, width: int = 227, height: int = 227) -> Image.Image:
    """A third of a photograph, squashed."""
    left, upper = 20 * seed, 10 * seed
    box = (left, upper, left + 380, upper + 250)
    return photos()[seed % 2].resize((width, height), Image.Resampling.BICUBIC, box)


def difference(ours: np.ndarray, reference: Image.Image) -> float:
    theirs = np.asarray(reference)
    assert ours.shape == theirs.shape
    assert ours.dtype == np.uint8
    return float(np.abs(ours.astype(int) - theirs.astype(int)).mean())


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_colour_factors_are_the_references(name: str, factor: float) -> None:
    image = photo(1)
    found = getattr(transforms_cv2, name)(np.asarray(image), factor)
    assert difference(found, getattr(transforms_pil, name)(image, factor)) < 0.1


@pytest.mark.parametrize("turn", TURNS)
def test_hue_is_the_references_up_to_rounding(turn: float) -> None:
    assert difference(transforms_cv2.hue(np.asarray(photo(2)), turn), transforms_pil.hue(photo(2), turn)) < ROUNDING
    garish = noise(2, (227, 227))  # where a level of hue makes most of a difference
    assert difference(transforms_cv2.hue(np.asarray(garish), turn), transforms_pil.hue(garish, turn)) < ROUNDING


def test_gray_is_the_references() -> None:
    assert difference(transforms_cv2.gray(np.asarray(photo(3))), transforms_pil.gray(photo(3))) < 0.01


@pytest.mark.parametrize(
    "size", [(227, 227), (224, 224), (100, 180), (256, 256), (341, 256), (190, 300), (300, 190), (1024, 747)]
)
@pytest.mark.parametrize("interpolation", transforms_pil.FILTERS)
def test_the_squash_is_the_references_up_to_rounding(size: tuple[int, int], interpolation: str) -> None:
    image = photo(4, *size)
    found = transforms_cv2.resize(np.asarray(image), 224, 224, interpolation)
    assert difference(found, transforms_pil.resize(image, 224, 224, interpolation)) < ROUNDING


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((227, 227), (0, 13, 227, 201)),
        ((227, 227), (20, 20, 220, 190)),
        ((224, 224), (3.25, 10.7, 199.5, 224.0)),
        ((224, 224), (0.0, 0.0, 223.6, 190.1)),
        ((341, 256), (30.5, 1.25, 300.75, 250.0)),
        ((341, 256), (100.3, 1.25, 290.75, 250.0)),
    ],
)
@pytest.mark.parametrize("interpolation", transforms_pil.FILTERS)
def test_boxes_of_fractions_of_pixels_are_the_references(
    size: tuple[int, int], box: tuple[float, float, float, float], interpolation: str
) -> None:
    image, how = photo(5, *size), transforms_pil.FILTERS[interpolation]
    expected = image.resize((224, 224), how, box)
    found = transforms_cv2.crop(np.asarray(image), box, 224, 224, interpolation)
    assert difference(found, expected) < ROUNDING
    moved = image.resize((224, 224), how, (box[0], box[1], box[2] - 1, box[3] - 1))
    assert difference(found, moved) > 2 * difference(found, expected), "a pixel makes more of a difference"


@pytest.mark.parametrize("interpolation", transforms_pil.FILTERS)
def test_a_draw_is_applied_as_the_reference_applies_it(interpolation: str) -> None:
    """Every operation, in the order drawn, in 60 draws; rounding adds up over five of them."""
    image, found, kinds = photo(6), [], set()
    for seed in range(60):
        drawn = transforms_pil.draw(227, 227, np.random.default_rng(seed))
        expected = transforms_pil.augment(image, 224, 224, np.random.default_rng(seed), interpolation=interpolation)
        ours = transforms_cv2.augment(np.asarray(image), drawn, 224, 224, (1, 1), interpolation)
        found.append(difference(ours, expected))
        kinds.add((drawn.flip, drawn.gray))
    assert len(kinds) == 4
    assert np.mean(found) < ROUNDING
    assert max(found) < 2 * ROUNDING


def test_boxes_are_those_of_the_original_in_a_squashed_copy() -> None:
    original = photo(7, 640, 400)
    copy = transforms_pil.resize(original, 224, 224)
    for seed in range(10):
        drawn = transforms_pil.draw(640, 400, np.random.default_rng(seed))
        left, upper, right, lower = drawn.box
        box = (left * 0.35, upper * 0.56, right * 0.35, lower * 0.56)
        plain = drawn._replace(flip=False, factors=(1, 1, 1), turn=0, order=(), gray=False)
        expected = copy.resize((224, 224), Image.Resampling.BILINEAR, box)
        found = transforms_cv2.augment(np.asarray(copy), plain, 224, 224, (224 / 640, 224 / 400))
        assert difference(found, expected) < ROUNDING


def test_channels_are_written_in_place() -> None:
    image, channels = np.asarray(photo(8, 20, 30)), np.zeros((2, 3, 30, 20), np.uint8)
    transforms_cv2.split(image, channels[1])
    assert np.array_equal(channels[1], image.transpose(2, 0, 1))
    assert not channels[0].any()
