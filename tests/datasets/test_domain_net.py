from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from dgbench import cli
from dgbench.core.errors import UserError
from dgbench.data import cache_build
from dgbench.data.cache import ensure_built
from dgbench.datasets.domain_net import DomainNet
from dgbench.download import main
from tests.support.layouts import files_under, truncate, write_folders, write_zip

CARD = DomainNet.card
CLASSES = ("The_Mona_Lisa", "airplane", "t-shirt")
COUNTS = dict(zip(CARD.domains, (4, 5, 6, 7, 8, 9), strict=True))
DUPLICATES = dict(zip(CARD.domains, (1, 0, 2, 0, 1, 0), strict=True))
WITH = {domain: COUNTS[domain] + DUPLICATES[domain] for domain in COUNTS}


def silent(what: str, done: int, total: int) -> None:
    pass


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    card = dataclasses.replace(CARD, classes=CLASSES, counts=COUNTS, duplicates=DUPLICATES)
    monkeypatch.setattr(DomainNet, "card", card)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """DomainNet with its duplicates."""
    return write_folders(tmp_path / "data" / "domain_net", WITH, CLASSES)


@pytest.fixture
def listed(root: Path) -> Path:
    """Each domain's last files are duplicates."""
    last = {domain: sorted(root.glob(f"{domain}/*/*"), key=lambda path: path.name)[-n:] for domain, n in WITH.items()}
    names = [
        str(p.relative_to(root)) for domain, n in DUPLICATES.items() for p in last[domain][len(last[domain]) - n :]
    ]
    path = root.parents[1] / "domain_net_duplicates.txt"
    path.write_text("\n".join(names))
    return path


def test_the_card_adds_up() -> None:
    assert sum(CARD.counts.values()) == 586_575
    assert sum(CARD.duplicates.values()) == 9_431
    assert tuple(CARD.counts) == tuple(CARD.duplicates) == CARD.domains
    assert list(CARD.classes) == sorted(set(CARD.classes))
    assert len(CARD.classes) == 345


def test_duplicates_are_refused_as_such(root: Path) -> None:
    with pytest.raises(UserError) as caught:
        DomainNet(data_dir=root.parent)
    said = "\n".join(caught.value.problems)
    assert "domain 'painting' has 8 images, expected 6" in said
    assert "that is DomainNet with the 4 duplicates that DomainBed removes" in said
    assert f"download DomainNet --data_dir {root.parent} --remove_duplicates domain_net_duplicates.txt`" in said


def test_other_counts_are_not_taken_for_duplicates(root: Path) -> None:
    next(root.glob("real/*/*")).unlink()
    with pytest.raises(UserError) as caught:
        DomainNet(data_dir=root.parent)
    assert "duplicates" not in str(caught.value)


def test_the_command_removes_them(root: Path, listed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["DomainNet", "--data_dir", str(root.parent), "--remove_duplicates", str(listed)]
    for there in (4, 0):
        assert cli.run(main, words) == 0
        said = capsys.readouterr().out
        assert f"deleted {there} of the 4 files that {listed} names; {4 - there} were not there\n" in said
        assert "39 examples (clipart 4, infograph 5, painting 6, quickdraw 7, real 8, sketch 9)" in said
    assert DomainNet(data_dir=root.parent).counts() == list(COUNTS.values())


def test_a_list_that_is_not_the_published_one_deletes_nothing(
    root: Path, listed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed.write_text("\n".join(listed.read_text().splitlines()[:-1]))
    words = ["DomainNet", "--data_dir", str(root.parent), "--remove_duplicates", str(listed)]
    assert cli.run(main, words) == 2
    assert "is not the published list: it has clipart 1, painting 2" in capsys.readouterr().err
    assert len(files_under(root)) == sum(WITH.values())


def test_made_of_six_archives_and_the_list(root: Path, listed: Path, tmp_path: Path) -> None:
    archives = [
        write_zip(tmp_path / f"{domain}.zip", files_under(root / domain, f"{domain}/")) for domain in CARD.domains
    ]
    with pytest.raises(UserError, match=r"--from lacks domain_net_duplicates.txt"):
        DomainNet.download(tmp_path / "new", archives, silent)
    with pytest.raises(UserError, match=r"missing painting$"):
        DomainNet.download(tmp_path / "some", [*archives[:2], *archives[3:], listed], silent)
    DomainNet.download(tmp_path / "new", [*archives, listed], silent)
    assert DomainNet(data_dir=tmp_path / "new").counts() == list(COUNTS.values())
    assert {archive.name for archive in archives} < {archive.name for archive in DomainNet.archives}


@pytest.fixture
def clean(root: Path, listed: Path) -> Path:
    """DomainNet without its duplicates, and a painting that is cut off at the end."""
    cli.run(main, ["DomainNet", "--data_dir", str(root.parent), "--remove_duplicates", str(listed)])
    truncate(root / "painting" / "The_Mona_Lisa" / "0000.jpg")
    return root


@pytest.mark.parametrize("kind", ["bytes", "jpeg"])
def test_paintings_that_are_cut_off_are_decoded_as_far_as_they_go(
    clean: Path, kind: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """To the pixels that DomainBed's switch finds, from the files and from the cache."""
    if kind == "jpeg":
        monkeypatch.setattr(cache_build, "LARGEST", 0)
        monkeypatch.setattr(cache_build, "LARGEST_OWN", 0)
    with monkeypatch.context() as patch:
        patch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
        with Image.open(clean / "painting" / "The_Mona_Lisa" / "0000.jpg") as image:
            expected = np.asarray(image.convert("RGB").resize((16, 16), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    dataset = DomainNet(data_dir=clean.parent, image_size=16)
    (remark,) = dataset.remarks()
    assert remark.startswith("JPEGs of 'painting' that end early are decoded as far as they go")
    examples = dataset.examples("painting", 0)
    assert np.array_equal(examples.batch(np.array([0]), None)[0], expected)
    cached = examples.cached()
    assert cached.images.index.kind == kind
    away = np.abs(cached.batch(np.array([0]), None)[0].astype(int) - expected).mean()
    assert away == 0 if kind == "bytes" else away < 3
    assert [record.getMessage() for record in caplog.records] == [
        f"image {clean}/painting/The_Mona_Lisa/0000.jpg ends early: decoded as far as it goes"
    ]


def test_they_are_left_out_if_asked(clean: Path) -> None:
    dataset = DomainNet(data_dir=clean.parent, skip_bad_images=True)
    assert dataset.counts() == [4, 5, 5, 7, 8, 9]
    assert dataset.remarks() == ()


def test_images_of_other_domains_that_are_cut_off_are_refused_as_ever(clean: Path) -> None:
    truncate(clean / "real" / "The_Mona_Lisa" / "0000.jpg")
    dataset = DomainNet(data_dir=clean.parent, image_size=8)
    with pytest.raises(UserError, match=r"real/The_Mona_Lisa/0000.jpg can't be decoded"):
        dataset.examples("real", 0).batch(np.array([0]), None)
    with pytest.raises(UserError) as caught:
        ensure_built(dataset.image_cache())
    (problem,) = caught.value.problems
    assert problem.startswith(f"image {clean}/real/The_Mona_Lisa/0000.jpg can't be decoded")


@pytest.mark.parametrize("content", [b"", b"<html>quota exceeded</html>", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"])
def test_paintings_of_which_nothing_can_be_decoded_are_refused(clean: Path, content: bytes) -> None:
    path = clean / "painting" / "airplane" / "0001.jpg"
    dataset = DomainNet(data_dir=clean.parent, image_size=8)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"painting/airplane/0001.jpg can't be decoded"):
        dataset.examples("painting", 0).batch(np.arange(6), None)
