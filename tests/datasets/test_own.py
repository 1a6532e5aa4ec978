"""Own image files: every file is read or counted, and what is odd about them is refused or said."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dgbench.core.errors import UserError
from dgbench.datasets import _own
from dgbench.datasets.csv_file import csv
from dgbench.datasets.folder import folder
from tests.cases.make_cases import tree
from tests.conftest import Cases
from tests.support.layouts import write_clutter, write_image


def problems_of(path: Path, cls: type[folder] | type[csv] = folder, **options: bool) -> str:
    with pytest.raises(UserError) as caught:
        cls(path=path, **options)
    return "\n".join(caught.value.problems)


def first_of(dataset: folder | csv, domain: str = "a") -> np.ndarray:
    return np.asarray(dataset.examples(domain, 0).batch(np.array([0]), None)[0])


@pytest.mark.parametrize(("name", "each"), [("jfif_half", 24), ("gif", 12)])
def test_every_format_of_pillow_is_read(cases: Cases, name: str, each: int) -> None:
    dataset = folder(path=cases("folders") / name)
    assert dataset.counts() == [each] * 3
    assert not dataset.remarks()
    for domain in dataset.domains:
        assert dataset.examples(domain, 0).batch(np.arange(each), None).shape == (each, 3, 224, 224)


def test_files_are_read_or_counted_by_extension(tmp_path: Path) -> None:
    root = tree(tmp_path / "own", n=2)
    write_clutter(root)
    some = root / "a" / "x"
    for name in ("1.heic", "2.HEIC", "3.npy", "README"):
        (some / name).write_bytes(b"no image")
    for name, kind in {"n01440764_1": "JPEG", "noext": "PNG", "w": "WEBP", "b": "BMP", "t": "TIFF", "g": "GIF"}.items():
        Image.new("RGB", (8, 8)).save(some / name, kind)
    write_image(root / "__MACOSX" / "a" / "x" / "1.png")
    (some / "desktop.ini").write_text("x")
    os.mkfifo(some / "pipe")
    dataset = folder(path=root)
    assert dataset.counts() == [10, 4, 4]
    (said,) = (remark for remark in dataset.remarks() if remark.startswith("left out"))
    counts = "6 .txt, 2 without an extension, 2 .heic, 1 .npy"
    assert said == f"left out 11 file(s) that can't be read as images: {counts}"


def test_images_that_lie_in_no_class_are_said(tmp_path: Path) -> None:
    root = tree(tmp_path / "own", n=1)
    assert folder(path=root).remarks() == []
    write_image(root / "cover.jpg")
    write_image(root / "b" / "loose.GIF")
    (said,) = folder(path=root).remarks()
    assert said == "left out 2 image(s) that lie in no class, domain/class/: 'cover.jpg', 'b/loose.GIF'"


def test_a_layout_without_classes_is_said(tmp_path: Path) -> None:
    assert folder(path=tree(tmp_path / "own", classes=("images",), n=2)).remarks() == [
        "every image is of the one class 'images': are images in domain/class/?"
    ]


def test_what_holds_nothing_is_never_opened(tmp_path: Path) -> None:
    root = tree(tmp_path / "own", n=2)
    os.mkfifo(root / "a" / "x" / "pipe.png")
    assert "1 image(s) hold nothing: 'a/x/pipe.png'" in problems_of(root)
    assert folder(path=root, skip_bad_images=True).counts() == [4, 4, 4]


def test_a_class_of_which_nothing_can_be_read_says_what_it_holds(tmp_path: Path) -> None:
    root = tree(tmp_path / "own", n=2)
    for path in (root / "b" / "y").iterdir():
        path.rename(path.with_suffix(".heic"))
    said = problems_of(root)
    assert "class 'y' of domain 'b' has no image" in said
    assert "left out 2 file(s) that can't be read as images: 2 .heic" in said


@pytest.mark.parametrize("prefix", ["", "train/", "Test/"])
def test_splits_in_the_place_of_domains_or_classes_are_refused(cases: Cases, tmp_path: Path, prefix: str) -> None:
    if not prefix:
        said = problems_of(cases("folders") / "split_as_class")
        assert "has the folders 'test', 'train' where classes are expected" in said
    else:
        for split in (prefix, "val/"):
            tree(tmp_path / "own" / split, n=1)
        said = problems_of(tmp_path / "own")
        assert f"has the folders '{prefix[:-1]}', 'val' where domains" in said
    assert "csv:/path/to/it" in said


def test_a_class_may_be_called_as_a_split_is(tmp_path: Path) -> None:
    root = tree(tmp_path / "own", classes=("bus", "train"), n=1)
    assert folder(path=root).classes == ("bus", "train")


@pytest.mark.parametrize("kind", [folder, csv])
def test_a_domain_may_lack_a_class_where_that_is_allowed(cases: Cases, kind: type[folder] | type[csv]) -> None:
    path = cases("folders") / "class_missing" if kind is folder else cases("csv_files") / "class_missing.csv"
    lacking = "z" if kind is folder else "y"
    said = problems_of(path, kind)
    assert f"domain(s) 'c' lack the class(es) '{lacking}'" in said
    assert "--allow_missing_classes" in said
    dataset = kind(path=path, allow_missing_classes=True)
    assert dataset.classes == (("x", "y", "z") if kind is folder else ("x", "y"))
    assert dataset.missing_classes == {"c": (lacking,)}
    labels = [np.unique(dataset.examples(domain, 0).labels).tolist() for domain in "abc"]
    every = list(range(len(dataset.classes)))
    assert labels == [every, every, every[:-1]]
    assert f"domain 'c' has no example of the class(es) '{lacking}'" in dataset.remarks()
    cache = dataset.image_cache()
    assert len(cache.paths()) == sum(dataset.counts())


def test_a_domain_without_an_image_is_none_whatever_is_allowed(tmp_path: Path) -> None:
    root = tree(tmp_path / "own", n=1)
    (root / "tmp").mkdir()
    (root / "a" / "empty").mkdir()
    assert problems_of(root, allow_missing_classes=True) == "domain 'tmp' has no image: move it away"
    (root / "tmp").rmdir()
    dataset = folder(path=root, allow_missing_classes=True)
    assert (dataset.classes, dataset.missing_classes) == (("x", "y"), {})


def test_a_class_of_one_domain_alone_is_said_to_be_unseen_there(tmp_path: Path) -> None:
    root = tree(tmp_path / "own", n=1)
    tree(root, domains=("b",), classes=("z",), n=1)
    assert (
        "class 'z' is in domain 'b' alone: where that is tested, nothing has trained on it"
        in folder(path=root, allow_missing_classes=True).remarks()
    )


def test_a_name_that_is_no_utf8_is_read_or_refused_by_name(cases: Cases, tmp_path: Path) -> None:
    dataset = folder(path=cases("folders") / "not_utf8")
    assert dataset.counts() == [24, 24, 24]
    assert len(dataset.fingerprint()) == 64
    first_of(dataset)
    root = tree(tmp_path / "own", n=1)
    os.rename(os.fsencode(root / "a"), os.fsencode(root) + b"/\xe4")
    said = problems_of(root)
    assert said == r"the name(s) '\xe4' of domains or classes are no UTF-8: rename them"


def test_the_fingerprint_of_ordinary_files_is_what_it_was(tmp_path: Path) -> None:
    for domain in "ab":
        path = tmp_path / "own" / domain / "x" / "ä.png"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"12345")
    frozen = "2498b60c6d9a83c8d3adb076ff0671a9bdac3ead57eabbaed451e12b1ccca05c"
    assert folder(path=tmp_path / "own").fingerprint() == frozen


def test_turned_images_are_other_data(cases: Cases, tmp_path: Path) -> None:
    root = tree(tmp_path / "own", n=1)
    shutil.copy(cases("modes") / "turned.jpg", root / "a" / "x" / "000.jpg")
    (root / "a" / "x" / "000.png").unlink()
    stored, kept, turned = (folder(path=root, exif=how) for how in ("", "keep", "turn"))
    said = "'a/x/000.jpg' are used as they are stored; --exif turn turns images as their EXIF says"
    assert [said in dataset.remarks() for dataset in (stored, kept, turned)] == [True, False, False]
    assert stored.fingerprint() == kept.fingerprint() != turned.fingerprint()
    assert stored.image_cache().folder == kept.image_cache().folder != turned.image_cache().folder
    assert first_of(stored)[0, 112, 20] > 200 > 50 > first_of(stored)[0, 112, 200]
    assert first_of(turned)[0, 20, 112] > 200 > 50 > first_of(turned)[0, 200, 112]
    cached = turned.examples("a", 0).cached()
    assert np.array_equal(cached.batch(np.array([0]), None)[0], first_of(turned))


def test_links_lead_to_each_folder_once(cases: Cases, tmp_path: Path) -> None:
    assert folder(path=cases("folders") / "link_loop").counts() == [24, 24, 24]
    root = tree(tmp_path / "own", n=2)
    for link, target in {"one": root / "a" / "x", "two": root / "a", "three": tmp_path}.items():
        (root / "a" / "x" / link).symlink_to(target)
        (root / "a" / "y" / link).symlink_to(target)
    assert folder(path=root).counts()[1:] == [4, 4]
    assert len(folder(path=root).tree["a"]["x"]) == 2


def test_a_link_to_a_folder_elsewhere_is_followed(tmp_path: Path) -> None:
    root, elsewhere = tree(tmp_path / "own", n=1), tree(tmp_path / "elsewhere", domains=("d",), classes=("z",), n=3)
    (root / "a" / "x" / "more").symlink_to(elsewhere / "d" / "z")
    assert folder(path=root).counts() == [5, 2, 2]


def test_the_same_bytes_in_two_domains_or_classes_are_told(cases: Cases, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = folder(path=cases("folders") / "same_bytes")
    (said,) = dataset.remarks()
    assert "6 time(s)" in said
    assert "'a/x/000.png' and 'b/y/copy0.png'" in said
    monkeypatch.setattr(_own, "_MOST_COMPARED", 3)
    (said,) = dataset.remarks()
    assert "none was compared" in said


def test_one_file_in_two_spellings_is_refused(cases: Cases) -> None:
    said = problems_of(cases("csv_files") / "two_spellings.csv", csv)
    assert "lists 2 file(s) more than once, in any spelling: './images/a/x/000.png'" in said
    assert csv(path=cases("csv_files") / "good.csv").counts() == [12, 12, 12]


@pytest.mark.parametrize("name", ["float.tif", "int32.tif"])
def test_data_without_a_range_are_refused_before_anything_starts(cases: Cases, tmp_path: Path, name: str) -> None:
    root = tree(tmp_path / "own", n=1)
    shutil.copy(cases("modes") / name, root / "a" / "x" / "000.tif")
    (root / "a" / "x" / "000.png").unlink()
    assert "'a/x/000.tif' hold floats, signed integers" in problems_of(root)


def test_what_is_transparent_is_white(cases: Cases, tmp_path: Path) -> None:
    root = tree(tmp_path / "own", n=1)
    shutil.copy(cases("modes") / "transparent.png", root / "a" / "x" / "000.png")
    dataset = folder(path=root)
    assert (first_of(dataset)[:, 0, 0] == 255).all()
    cached = dataset.examples("a", 0).cached()
    assert np.array_equal(cached.batch(np.array([0]), None)[0], first_of(dataset))
