from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from dgbench.data import transforms_pil
from dgbench.data.dataset import DOMAINBED, Recipe
from tests.support.layouts import noise

SIZES = [(23, 17), (64, 64), (30, 90)]
FACTORS = [0.7, 0.93, 1.0, 1.18, 1.3]
TURNS = [-0.3, -0.1, -0.001, 0.0, 0.002, 0.17, 0.3]


def same(ours: Image.Image, theirs: Image.Image) -> bool:
    return ours.mode == theirs.mode == "RGB" and np.array_equal(np.asarray(ours), np.asarray(theirs))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_resized_is_torchvisions_squash(size: tuple[int, int], interpolation: str) -> None:
    image, how = noise(1, size), InterpolationMode(interpolation)
    assert same(transforms_pil.resize(image, 48, 32, interpolation), F.resize(image, [48, 32], how))


def test_domainbeds_interpolation_is_bilinear() -> None:
    image = noise(1)
    assert same(transforms_pil.resize(image, 48, 32), transforms_pil.resize(image, 48, 32, "bilinear"))
    found = transforms_pil.augment(image, 48, 32, np.random.default_rng(0))
    assert same(found, transforms_pil.augment(image, 48, 32, np.random.default_rng(0), interpolation="bilinear"))


@pytest.mark.parametrize("factor", FACTORS)
def test_colour_factors_are_torchvisions(factor: float) -> None:
    image = noise(2)
    assert same(transforms_pil.brightness(image, factor), F.adjust_brightness(image, factor))
    assert same(transforms_pil.contrast(image, factor), F.adjust_contrast(image, factor))
    assert same(transforms_pil.saturation(image, factor), F.adjust_saturation(image, factor))


@pytest.mark.parametrize("turn", TURNS)
def test_hue_is_torchvisions(turn: float) -> None:
    assert same(transforms_pil.hue(noise(3), turn), F.adjust_hue(noise(3), turn))


def test_gray_is_torchvisions() -> None:
    assert same(transforms_pil.gray(noise(4)), F.rgb_to_grayscale(noise(4), num_output_channels=3))


@pytest.mark.parametrize("recipe", [DOMAINBED, Recipe(resize_first=True), Recipe(crop=False)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_the_pieces_make_the_augmentation(recipe: Recipe, interpolation: str) -> None:
    """The order of operations: crop, resize, flip, jitter, gray; replayed with torchvision's operations.

    WILDS' images are resized before they are cropped, too; Spawrious' are resized and not cropped.
    """
    image, kinds, mode = noise(5, (60, 40)), set(), InterpolationMode(interpolation)
    for seed in range(40):
        rng = np.random.default_rng(seed)
        expected = image if recipe == DOMAINBED else F.resize(image, [32, 32], mode)
        if recipe.crop:
            left, upper, right, lower = transforms_pil.crop_box(*expected.size, rng)
            expected = F.resized_crop(expected, upper, left, lower - upper, right - left, [32, 32], mode)
        flipped = rng.random() < 0.5
        expected = F.horizontal_flip(expected) if flipped else expected
        factors, turn = rng.uniform(0.7, 1.3, 3), rng.uniform(-0.3, 0.3)
        adjust = [F.adjust_brightness, F.adjust_contrast, F.adjust_saturation]
        for k in rng.permutation(4):
            expected = F.adjust_hue(expected, turn) if k == 3 else adjust[k](expected, factors[k])
        grayed = rng.random() < 0.1
        expected = F.rgb_to_grayscale(expected, num_output_channels=3) if grayed else expected
        kinds.add((flipped, grayed))
        found = transforms_pil.augment(image, 32, 32, np.random.default_rng(seed), recipe, interpolation)
        assert same(found, expected)
    assert len(kinds) >= 3


def test_augmentation_is_a_function_of_the_generator() -> None:
    drawn = [np.asarray(transforms_pil.augment(noise(6), 16, 16, np.random.default_rng(seed))) for seed in (1, 1, 2)]
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])


@pytest.mark.parametrize(("width", "height"), [(227, 227), (500, 375), (60, 200)])
def test_boxes_are_distributed_as_torchvisions(width: int, height: int) -> None:
    n, rng = 3000, np.random.default_rng(0)
    boxes = np.array([transforms_pil.crop_box(width, height, rng) for _ in range(n)])
    crop = v2.RandomResizedCrop(224, scale=(0.7, 1.0))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        drawn = [crop.make_params([Image.new("L", (width, height))]) for _ in range(n)]
    theirs = np.array([(p["left"], p["top"], p["left"] + p["width"], p["top"] + p["height"]) for p in drawn])
    assert boxes.min() >= 0
    assert np.all(boxes[:, 2] <= width)
    assert np.all(boxes[:, 3] <= height)
    ours, reference = _edges_and_sizes(boxes), _edges_and_sizes(theirs)
    tolerance = 5 * np.sqrt(2 / n) * reference.std(0)
    assert np.all(abs(ours.mean(0) - reference.mean(0)) <= tolerance)
    assert np.all(abs(ours.std(0) - reference.std(0)) <= tolerance)


def _edges_and_sizes(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes, boxes[:, 2:] - boxes[:, :2]], axis=1)


@pytest.mark.parametrize(
    ("width", "height", "box"), [(10, 1000, (0, 493, 10, 506)), (1000, 10, (493, 0, 506, 10)), (1, 1, (0, 0, 1, 1))]
)
def test_an_extreme_image_is_cropped_in_its_centre(width: int, height: int, box: transforms_pil.Box) -> None:
    found = transforms_pil.crop_box(width, height, np.random.default_rng(0))
    params = v2.RandomResizedCrop(8, scale=(0.7, 1.0)).make_params([Image.new("L", (width, height))])
    assert found == box
    assert found[:2] == (params["left"], params["top"])
    assert (found[2] - found[0], found[3] - found[1]) == (params["width"], params["height"])
