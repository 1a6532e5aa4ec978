from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from dgbench import cli
from dgbench.datasets.domain_net import DomainNet
from dgbench.download import main
from dgbench.errors import UserError
from tests.layouts import files_under, truncate, write_folders, write_zip

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
        DomainNet.fetch(tmp_path / "new", archives, silent)
    with pytest.raises(UserError, match=r"painting lack$"):
        DomainNet.fetch(tmp_path / "some", [*archives[:2], *archives[3:], listed], silent)
    DomainNet.fetch(tmp_path / "new", [*archives, listed], silent)
    assert DomainNet(data_dir=tmp_path / "new").counts() == list(COUNTS.values())
    assert {archive.name for archive in archives} < {archive.name for archive in DomainNet.archives}


def test_a_cut_off_image_is_named_or_left_out(root: Path, listed: Path, tmp_path: Path) -> None:
    cli.run(main, ["DomainNet", "--data_dir", str(root.parent), "--remove_duplicates", str(listed)])
    truncate(root / "painting" / "The_Mona_Lisa" / "0000.jpg")
    with pytest.raises(UserError, match=r"painting/The_Mona_Lisa/0000.jpg can't be decoded"):
        DomainNet(data_dir=root.parent, image_size=8).examples("painting", 0).batch(np.array([0]), None)
    assert DomainNet(data_dir=root.parent, skip_bad_images=True).counts() == [4, 5, 5, 7, 8, 9]
