from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dgbench.core.errors import UserError
from dgbench.datasets import spawrious
from dgbench.datasets.spawrious import (
    SpawriousM2M_easy,
    SpawriousM2M_hard,
    SpawriousM2M_medium,
    SpawriousO2O_easy,
    SpawriousO2O_hard,
    SpawriousO2O_medium,
)
from tests.support.layouts import files_under, write_image, write_tar

ONE = (SpawriousO2O_easy, SpawriousO2O_medium, SpawriousO2O_hard)
MANY = (SpawriousM2M_easy, SpawriousM2M_medium, SpawriousM2M_hard)
BREEDS = ("bulldog", "corgi", "dachshund", "labrador")
LOCATIONS = ("beach", "desert", "dirt", "jungle", "mountain", "snow")


def silent(what: str, done: int, total: int) -> None:
    pass


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole data set, with ten images for each of the 3,168; the ninth sorts as last."""
    data_dir = tmp_path_factory.mktemp("data")
    image = write_image(data_dir / "one.jpg").read_bytes()
    for folder in "01":
        for location in LOCATIONS:
            for breed in BREEDS:
                place = data_dir / "spawrious224" / folder / location / breed
                place.mkdir(parents=True)
                for n in range(1, 11):
                    (place / f"{location}_{breed}_{n}.png").write_bytes(image)
    return data_dir


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spawrious, "_DRAWN", 10)
    monkeypatch.setattr(spawrious, "_SHARES", (0.9, 0.7))
    for cls in (*ONE, *MANY):
        counts = {"Test": 80, "SC_group_1": 40, "SC_group_2": 40}
        monkeypatch.setattr(cls, "card", dataclasses.replace(cls.card, counts=counts))


def backgrounds(dataset: spawrious._Spawrious, domain: str) -> Counter[tuple[str, str, str]]:
    """How many images there are of (breed, folder, location)."""
    return Counter(
        (breed, *file.path.split("/")[:2]) for breed, files in dataset.tree[domain].items() for file in files
    )


def test_the_published_numbers_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    for cls in (*ONE, *MANY):
        made = {domain: sum(p.limit for p in portions) for domain, portions in cls.portions().items()}
        assert made == cls.card.counts == {"Test": 25_344, "SC_group_1": 12_672, "SC_group_2": 12_672}
        assert cls.card.tested == ("Test",)
    limits = [[p.limit for p in of_domain] for of_domain in ONE[0].portions().values()]
    assert limits == [[3168] * 8, [3072] * 4 + [96] * 4, [2756] * 4 + [412] * 4]


def test_one_to_one_as_domainbed_composes_it(written: Path) -> None:
    dataset = SpawriousO2O_easy(data_dir=written)
    assert dataset.domains == ("Test", "SC_group_1", "SC_group_2")
    assert dataset.classes == BREEDS
    assert dataset.counts() == [80, 40, 40]
    own = {"bulldog": "desert", "dachshund": "jungle", "labrador": "dirt", "corgi": "snow"}
    misled = {"bulldog": "dirt", "dachshund": "snow", "labrador": "desert", "corgi": "jungle"}
    assert backgrounds(dataset, "Test") == {(b, i, at): 10 for b, at in misled.items() for i in "01"}
    for i, (domain, most) in enumerate((("SC_group_1", 9), ("SC_group_2", 7))):
        expected = {(b, str(i), at): most for b, at in own.items()} | {(b, str(i), "beach"): 10 - most for b in BREEDS}
        assert backgrounds(dataset, domain) == expected


def test_many_to_many_as_domainbed_composes_it(written: Path) -> None:
    dataset = SpawriousM2M_hard(data_dir=written)
    first = {"bulldog": "dirt", "dachshund": "jungle", "labrador": "snow", "corgi": "beach"}
    second = {"bulldog": "jungle", "dachshund": "dirt", "labrador": "beach", "corgi": "snow"}
    test = [("bulldog", "snow"), ("bulldog", "beach"), ("dachshund", "beach"), ("dachshund", "snow")]
    test += [("labrador", "dirt"), ("labrador", "jungle"), ("corgi", "jungle"), ("corgi", "dirt")]
    assert backgrounds(dataset, "SC_group_1") == {(b, "0", at): 10 for b, at in first.items()}
    assert backgrounds(dataset, "SC_group_2") == {(b, "0", at): 10 for b, at in second.items()}
    assert backgrounds(dataset, "Test") == {(b, "0", at): 10 for b, at in test}


@pytest.mark.parametrize("cls", [*ONE, *MANY])
def test_the_test_misleads_and_shares_no_image_with_training(cls: type[spawrious._Spawrious], written: Path) -> None:
    dataset = cls(data_dir=written)
    test = set(backgrounds(dataset, "Test"))
    training = set(backgrounds(dataset, "SC_group_1")) | set(backgrounds(dataset, "SC_group_2"))
    assert not {(breed, at) for breed, _, at in test} & {(breed, at) for breed, _, at in training}


def test_the_first_by_name_are_taken(written: Path) -> None:
    files = [file.path for file in SpawriousO2O_easy(data_dir=written).tree["SC_group_2"]["bulldog"]]
    names = [f"1/desert/bulldog/desert_bulldog_{n}.png" for n in (1, 10, 2, 3, 4, 5, 6)]
    assert files == names + [f"1/beach/bulldog/beach_bulldog_{n}.png" for n in (1, 10, 2)]


def test_folders_that_lack_or_are_not_complete_are_told_at_once(written: Path, tmp_path: Path) -> None:
    files = files_under(written / "spawrious224", "spawrious224/")
    files = {name: content for name, content in files.items() if "1/beach/corgi" not in name}
    del files["spawrious224/0/dirt/bulldog/dirt_bulldog_3.png"]
    SpawriousO2O_easy.download(tmp_path, [write_tar(tmp_path / "a.tar.gz", files)], silent)
    with pytest.raises(UserError) as caught:
        SpawriousO2O_easy(data_dir=tmp_path)
    root = tmp_path / "spawrious224"
    assert set(caught.value.problems) == {
        f"{root / '0/dirt/bulldog'} has 9 images, expected 10",
        f"{root} lacks the folder 1/beach/corgi",
    }
    assert SpawriousM2M_hard(data_dir=written).counts() == [80, 40, 40]


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("size", [24, 32])
def test_training_images_are_augmented_but_not_cropped(
    cached: bool, size: int, written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of images that are black on the left and brown on the right, each half keeps its place or takes the other's."""
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:, 16:] = (150, 90, 40)
    for file in files_under(written, ""):
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path.with_suffix(".png"))
    (tmp_path / "one.png").unlink()
    examples = SpawriousO2O_easy(data_dir=tmp_path, image_size=size).examples("SC_group_1", 0)
    examples = examples.cached() if cached else examples
    half, margin = size // 2, int(size != 32)  # where a resize blurs it
    inputs = examples.batch(np.arange(40), np.random.default_rng(0)).astype(int)
    halves = inputs[..., : half - margin], inputs[..., half + margin :]
    assert all((np.ptp(part, axis=(2, 3)) <= 1).all() for part in halves)
    left, right = (part.mean((1, 2, 3)) for part in halves)
    assert 10 < (left > right).sum() < 30, "mirrored in about half of the draws"
    assert len({tuple(image) for image in np.maximum(*(part.mean((2, 3)) for part in halves))}) > 30, "jittered"


def test_the_folder_is_expected_under_data_dir(written: Path) -> None:
    with pytest.raises(UserError, match=r"expected in the folder .*spawrious224/spawrious224, which does not exist"):
        SpawriousO2O_hard(data_dir=written / "spawrious224")
    with pytest.raises(UserError, match="--data_dir, which is not given"):
        SpawriousO2O_hard()
