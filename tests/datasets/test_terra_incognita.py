from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from dgbench.core.errors import UserError
from dgbench.datasets.terra_incognita import TerraIncognita
from tests.support.layouts import files_under, write_folders, write_image, write_tar

CARD = TerraIncognita.card
OLD = dict(zip(CARD.domains, (12, 13, 14, 15), strict=True))
NEW = dict(zip(CARD.domains, (11, 13, 14, 12), strict=True))


def silent(what: str, done: int, total: int) -> None:
    pass


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TerraIncognita, "card", dataclasses.replace(CARD, generations={"the old": OLD, "the new": NEW}))


def opened(data_dir: Path) -> TerraIncognita:
    return TerraIncognita(data_dir=data_dir)


def test_both_generations_have_the_published_counts() -> None:
    assert [sum(counts.values()) for counts in CARD.generations.values()] == [24_788, 24_330]
    assert all(tuple(counts) == CARD.domains for counts in CARD.generations.values())
    assert all(f"{sum(counts.values()):,}" in name for name, counts in CARD.generations.items())


def test_generations_are_told_apart(tmp_path: Path) -> None:
    datasets = []
    for name, counts in (("the old", OLD), ("the new", NEW)):
        write_folders(tmp_path / name / "terra_incognita", counts, CARD.classes)
        datasets.append(opened(tmp_path / name))
        assert datasets[-1].counts() == list(counts.values())
        assert datasets[-1].remarks()[0] == f"TerraIncognita is {name}"
    assert datasets[0].fingerprint() != datasets[1].fingerprint()
    assert datasets[0].domains == ("location_100", "location_38", "location_43", "location_46")


def test_counts_of_no_generation_are_refused_with_everything_else(tmp_path: Path) -> None:
    root = write_folders(tmp_path / "terra_incognita", {**OLD, CARD.domains[0]: NEW[CARD.domains[0]]}, CARD.classes)
    (root / "eccv_18_all_images_sm").mkdir()
    (root / CARD.domains[1] / "deer").mkdir()
    with pytest.raises(UserError) as caught:
        opened(tmp_path)
    said = "\n".join(caught.value.problems)
    assert "unexpected folder(s) 'eccv_18_all_images_sm': move them away" in said
    assert "domain 'location_38' has the unexpected class(es) 'deer'" in said
    assert "no published generation: location_100 11, location_38 13, location_43 14, location_46 15" in said
    assert "the new has location_100 11, location_38 13, location_43 14, location_46 12" in said


def test_images_with_two_labels_are_told(tmp_path: Path) -> None:
    root = write_folders(tmp_path / "terra_incognita", {**OLD, CARD.domains[0]: 11}, CARD.classes)
    write_image(root / CARD.domains[0] / "cat" / "0001.jpg")
    assert opened(tmp_path).remarks()[1:] == (
        "one image with two labels, in location_100: 0001.jpg lies in bobcat and cat",
    )


Photo = tuple[str, Any, Sequence[str]]
"""Id, location and the classes of its annotations."""


def annotations(photos: Sequence[Photo]) -> bytes:
    """In COCO's format, as the camera traps' are."""
    names = [*CARD.classes, "deer", "car"]
    content: Mapping[str, Any] = {
        "categories": [{"id": 10 + n, "name": name} for n, name in enumerate(names)],
        "images": [{"id": i, "file_name": f"{i}.jpg", "location": location} for i, location, _ in photos],
        "annotations": [
            {"image_id": i, "category_id": 10 + names.index(c)} for i, _, classes in photos for c in classes
        ],
    }
    return json.dumps(content).encode()


def photos() -> list[Photo]:
    """The old generation, one image in two classes; and what must be left out."""
    made: list[Photo] = []
    for domain, count in OLD.items():
        location = domain.removeprefix("location_")
        classes = [CARD.classes[n % len(CARD.classes)] for n in range(count)]
        made += [(f"{location}-{n}", int(location) if n % 2 else location, [c, c]) for n, c in enumerate(classes)]
    made[0] = made[0][0], made[0][1], [CARD.classes[0], CARD.classes[1]]
    del made[1]
    return [*made, ("x1", "38", ["deer"]), ("x2", "7", ["cat"]), ("x3", "43", [])]


def sources(tmp_path: Path, lacking: str = "") -> list[Path]:
    """The two archives, as published."""
    made = photos()
    image = write_image(tmp_path / "one.jpg").read_bytes()
    images = {f"eccv_18_all_images_sm/{i}.jpg": image for i, *_ in made if i != lacking}
    halves = {"train": made[:30], "cis_test": made[25:]}
    files = {f"eccv_18_annotation_files/{name}_annotations.json": annotations(half) for name, half in halves.items()}
    names = [archive.name for archive in TerraIncognita.archives]
    return [write_tar(tmp_path / names[0], images), write_tar(tmp_path / names[1], files)]


def test_built_from_images_and_annotations(tmp_path: Path) -> None:
    TerraIncognita.download(tmp_path / "data", sources(tmp_path), silent)
    dataset = opened(tmp_path / "data")
    assert dataset.remarks() == (
        "TerraIncognita is the old",
        "one image with two labels, in location_100: 100-0.jpg lies in bird and bobcat",
    )
    found = set(files_under(tmp_path / "data" / "terra_incognita"))
    assert "location_38/cat/38-2.jpg" in found
    assert not [path for path in found if "/x" in path]
    assert len(found) == sum(OLD.values())


def test_images_that_lack_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"1 of the 54 images .* such as 38-2.jpg: both archives are needed"):
        TerraIncognita.download(tmp_path / "data", sources(tmp_path, lacking="38-2"), silent)


def test_sorted_folders_are_taken_as_they_are(tmp_path: Path) -> None:
    root = write_folders(tmp_path / "mine", NEW, CARD.classes)
    TerraIncognita.download(tmp_path / "data", [root], silent)
    assert opened(tmp_path / "data").remarks() == ("TerraIncognita is the new",)


def test_other_json_is_refused(tmp_path: Path) -> None:
    for number, content in enumerate((b"{", b"[]", b'{"images": []}')):
        archive = write_tar(tmp_path / f"{number}.tar", {"a.json": content})
        with pytest.raises(UserError, match=r"a.json is not a file of annotations in COCO's format"):
            TerraIncognita.download(tmp_path / str(number), [archive], silent)
