"""The data sets that are published as archives: their cards, and what becomes of the archives and of wrong folders."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from dgbench.catalogue.catalogue import Catalogue
from dgbench.core.errors import UserError
from dgbench.data.dataset import Dataset
from dgbench.datasets import nico
from dgbench.datasets._images import ImageDataset
from dgbench.datasets.nico import NICOPlusPlus
from dgbench.datasets.office_home import OfficeHome
from dgbench.datasets.pacs import PACS
from dgbench.datasets.sviro import SVIRO
from dgbench.datasets.vlcs import VLCS
from tests.support.layouts import files_under, write_clutter, write_folders, write_image, write_tar, write_zip

WRAPPED = {PACS: "kfold/", VLCS: "VLCS/", OfficeHome: "OfficeHomeDataset_10072016/", SVIRO: "SVIRO_DOMAINBED/"}
"""Data set -> the folder in its archive."""


def silent(what: str, done: int, total: int) -> None:
    pass


@pytest.fixture(params=WRAPPED, ids=lambda cls: cls.__name__)
def small(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type[ImageDataset]:
    """A data set whose card says that there are four images a domain, of two classes."""
    cls: type[ImageDataset] = request.param
    counts = dict.fromkeys(cls.card.domains, 4)
    monkeypatch.setattr(cls, "card", dataclasses.replace(cls.card, classes=cls.card.classes[:2], counts=counts))
    return cls


def test_its_archive_becomes_its_folder(small: type[ImageDataset], tmp_path: Path) -> None:
    root = write_folders(tmp_path / "in", small.card.domains, small.card.classes)
    write_clutter(root)
    name = small.archives[0].name
    pack = write_zip if name.endswith(".zip") else write_tar
    archive = pack(tmp_path / f"my-{name}", files_under(root, WRAPPED[small]))
    small.download(tmp_path / "data", [archive], silent)
    dataset = small(data_dir=tmp_path / "data")
    assert dataset.domains == small.card.domains
    assert dataset.counts() == [4] * len(dataset.domains)


def test_what_aborted_extractions_leave_is_refused_with_everything_else(
    small: type[ImageDataset], tmp_path: Path
) -> None:
    first, second, third, *others = small.card.domains
    root = write_folders(tmp_path / small.card.folder, [first, second, *others], small.card.classes)
    (root / third).mkdir()
    write_image(root / "tmp" / "x" / "1.jpg")
    (root / "eccv_18_all_images_sm").mkdir()
    (root / first / small.card.classes[0] / "0000.jpg").unlink()
    write_image(root / second / "surplus" / "1.jpg")
    with pytest.raises(UserError) as caught:
        small(data_dir=tmp_path)
    assert caught.value.problems == (
        f"{root} has the unexpected folder(s) 'eccv_18_all_images_sm', 'tmp': move them away",
        f"domain {third!r} has no folders: images are expected in {root / third}/CLASS/",
        f"domain {second!r} has the unexpected class(es) 'surplus'",
        *(
            f"domain {domain!r} has {n} images, expected 4"
            for domain, n in zip(small.card.domains, (3, 5, 0), strict=False)
        ),
    )


def test_a_class_that_a_domain_lacks_is_refused(small: type[ImageDataset], tmp_path: Path) -> None:
    domain, *_ = small.card.domains
    root = write_folders(tmp_path / small.card.folder, small.card.domains, small.card.classes)
    (root / domain / small.card.classes[1]).rename(root / domain / small.card.classes[0] / "below")
    with pytest.raises(UserError) as caught:
        small(data_dir=tmp_path)
    assert caught.value.problems == (f"domain(s) {domain!r} lack the class(es) {small.card.classes[1]!r}",)


def test_the_number_of_images_in_all_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = dataclasses.replace(NICOPlusPlus.card, classes=("bird", "hot air balloon"))
    monkeypatch.setattr(NICOPlusPlus, "card", card)
    monkeypatch.setattr(nico, "_TOTAL", 24)
    source = write_folders(tmp_path / "public_dg_0416" / "train", card.domains, card.classes)
    NICOPlusPlus.download(tmp_path / "data", [source.parent], silent)
    assert NICOPlusPlus(data_dir=tmp_path / "data").counts() == [4] * 6
    next((tmp_path / "data").rglob("*.jpg")).unlink()
    with pytest.raises(UserError, match=r"^there are 23 images, expected 24$"):
        NICOPlusPlus(data_dir=tmp_path / "data")


@pytest.mark.parametrize(("cls", "classes", "domains"), [(SVIRO, 7, 10), (NICOPlusPlus, 60, 6)])
def test_classes_and_domains_are_those_published(cls: type[ImageDataset], classes: int, domains: int) -> None:
    assert len(set(cls.card.classes)) == len(cls.card.classes) == classes
    assert len(cls.card.domains) == domains
    assert list(cls.card.classes) == sorted(cls.card.classes)
    assert list(cls.card.domains) == sorted(cls.card.domains)


def test_every_card_is_consistent(catalogue: Catalogue) -> None:
    for entry in catalogue.of_kind("dataset").values():
        cls: type[Dataset] = entry.load()
        card = cls.card
        assert entry.card == card, "the index says what the file says"
        assert card.source, entry.name
        assert card.licence, entry.name
        assert set(card.tested) <= set(card.domains)
        for counts in (card.counts, card.duplicates, *card.generations.values()):
            assert not counts or tuple(counts) == card.domains, entry.name
        assert not (card.counts and card.generations), entry.name
        for archive in cls.archives:
            assert not archive.url or archive.url.startswith(("http://", "https://")), entry.name
            assert len(archive.md5) in (0, 32), entry.name
