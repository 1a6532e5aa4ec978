from __future__ import annotations

import dataclasses
import logging
import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dgbench.core.errors import UserError
from dgbench.data import decoding, transforms_pil
from dgbench.data.decoding import Decoding
from dgbench.datasets._images import ImageDataset
from dgbench.datasets._own import MAY_LACK
from dgbench.datasets.folder import folder
from dgbench.datasets.office_home import OfficeHome
from dgbench.datasets.pacs import PACS
from dgbench.datasets.vlcs import VLCS
from tests.support.layouts import truncate, write_clutter, write_folders, write_image

DOMAINS, CLASSES = ("art", "photo", "sketch"), ("cat", "dog")
NAMED = {PACS: 9_991, VLCS: 10_729, OfficeHome: 15_588}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_folders(tmp_path / "own", DOMAINS, CLASSES)


def problems_of(root: Path, **options: bool) -> tuple[str, ...]:
    with pytest.raises(UserError) as caught:
        folder(path=root, **options)
    return caught.value.problems


def inputs_of(dataset: ImageDataset, domain: str) -> np.ndarray:
    examples = dataset.examples(domain, 0)
    return examples.batch(np.arange(len(examples.labels)), None)


def test_domains_and_classes_are_sorted_folders(root: Path) -> None:
    write_folders(root, {"Zoo": 5}, CLASSES)
    dataset = folder(path=root)
    assert dataset.domains == ("Zoo", "art", "photo", "sketch")
    assert dataset.classes == CLASSES
    assert dataset.counts() == [5, 4, 4, 4]
    examples = dataset.examples("Zoo", 0)
    assert examples.labels.tolist() == [0, 0, 0, 1, 1]
    assert examples.labels.dtype == np.int64
    assert examples.files == [
        f"Zoo/{name}/{n:04d}.jpg" for name, n in (("cat", 0), ("cat", 2), ("cat", 4), ("dog", 1), ("dog", 3))
    ]


def test_clutter_is_not_looked_at(root: Path) -> None:
    before = folder(path=root)
    write_clutter(root)
    after = folder(path=root)
    assert (after.domains, after.classes, after.counts()) == (before.domains, before.classes, before.counts())
    assert after.fingerprint() == before.fingerprint()


def test_extensions_count_in_any_case_and_sub_folders_are_read(tmp_path: Path) -> None:
    names = ["a.JPG", "b.Jpeg", "c.PNG", "d.ppm", "e.BMP", "f.pgm", "g.tif", "h.TIFF", "i.webp", "j/k.jpg"]
    for domain in DOMAINS:
        for name in names:
            write_image(tmp_path / domain / "cat" / name, mode="L" if name.endswith("pgm") else "RGB")
    dataset = folder(path=tmp_path)
    assert dataset.counts() == [10, 10, 10]
    assert inputs_of(dataset, "art").shape == (10, 3, 224, 224)


@pytest.mark.parametrize(
    ("name", "mode"),
    [("x.jpg", "L"), ("x.png", "P"), ("x.jpg", "CMYK"), ("x.png", "RGBA"), ("x.png", "LA"), ("x.png", "1")],
)
def test_every_mode_is_decoded_to_rgb(root: Path, name: str, mode: str) -> None:
    path = write_image(root / "art" / "cat" / name, mode=mode)
    with Image.open(path) as image:
        assert image.mode == mode
        expected = np.asarray(image.convert("RGB").resize((40, 40), Image.Resampling.BILINEAR))
    dataset = folder(path=root, image_size=40)
    assert np.array_equal(inputs_of(dataset, "art")[2], expected.transpose(2, 0, 1))


def test_an_image_is_not_turned_by_its_exif(root: Path) -> None:
    with Image.open(root / "art" / "cat" / "0000.jpg") as image:
        exif = Image.Exif()
        exif[0x0112] = 6
        image.save(root / "art" / "cat" / "9.png", exif=exif)
    inputs = inputs_of(folder(path=root), "art")
    assert np.array_equal(inputs[0], inputs[2])


def test_batches_are_bytes_in_the_order_asked_for(root: Path) -> None:
    dataset = folder(path=root, image_size=32)
    assert dataset.input_shape == (3, 32, 32)
    examples = dataset.examples("photo", 0)
    inputs = examples.batch(np.array([3, 0, 3]), None)
    assert inputs.dtype == np.uint8
    assert inputs.shape == (3, 3, 32, 32)
    assert np.array_equal(inputs[0], inputs[2])
    with Image.open(root / examples.files[0]) as image:
        assert np.array_equal(inputs[1].transpose(1, 2, 0), np.asarray(transforms_pil.resize(image, 32, 32)))


def test_augmentation_is_a_function_of_the_generator(root: Path) -> None:
    examples = folder(path=root, image_size=32).examples("photo", 0)
    drawn = [examples.batch(np.array([1, 1]), np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])
    assert not np.array_equal(drawn[0][0], drawn[0][1])
    rng = np.random.default_rng(0)
    with Image.open(root / examples.files[1]) as image:
        expected = [np.asarray(transforms_pil.augment(image, 32, 32, rng)) for _ in range(2)]
    assert np.array_equal(drawn[0].transpose(0, 2, 3, 1), np.stack(expected))


def test_the_fingerprint_is_of_names_and_sizes_wherever_they_lie(root: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(root, tmp_path / "elsewhere"))
    original = folder(path=root).fingerprint()
    assert folder(path=moved).fingerprint() == original
    with (moved / "art" / "cat" / "0000.jpg").open("ab") as file:
        file.write(b"\0")
    assert folder(path=moved).fingerprint() != original
    (root / "art" / "cat" / "0000.jpg").rename(root / "art" / "dog" / "0000.jpg")
    assert folder(path=root).fingerprint() != original


def test_the_order_of_files_is_not_the_folders(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = folder(path=root).examples("art", 0).files
    walk = os.walk
    monkeypatch.setattr(os, "walk", lambda *a, **k: ((p, d, sorted(n, reverse=True)) for p, d, n in walk(*a, **k)))
    assert folder(path=root).examples("art", 0).files == expected


def test_a_path_must_be_given_and_exist(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="write folder:/path/to/it"):
        folder()
    (tmp_path / "Pacs").mkdir()
    assert (
        f"the folder {tmp_path / 'PACS'}, which does not exist; {tmp_path} has 'Pacs'"
        in problems_of(tmp_path / "PACS")[0]
    )


@pytest.mark.parametrize("domains", [(), ("art",)])
def test_fewer_than_two_domains_are_refused(tmp_path: Path, domains: tuple[str, ...]) -> None:
    write_folders(tmp_path, domains, CLASSES)
    assert f"has {len(domains)} domain(s), there must be at least 2" in problems_of(tmp_path)[0]


def test_a_domain_that_lacks_a_class_is_named(root: Path) -> None:
    shutil.rmtree(root / "photo" / "dog")
    assert problems_of(root) == ("domain(s) 'photo' lack the class(es) 'dog'", MAY_LACK)


def test_a_domain_with_a_class_of_its_own_is_named(root: Path) -> None:
    write_image(root / "sketch" / "dgo" / "1.jpg")
    assert problems_of(root) == (
        "only domain(s) 'sketch' have the class(es) 'dgo', 'art', 'photo' lack them",
        MAY_LACK,
    )


def test_a_stray_folder_among_domains_is_one_problem(tmp_path: Path) -> None:
    root = write_folders(tmp_path, DOMAINS, [f"class{i}" for i in range(9)])
    (root / "tmp").mkdir()
    problem, _ = problems_of(root)
    assert problem == ("domain(s) 'tmp' lack the class(es) 'class0', 'class1', 'class2', 'class3', 'class4' and 4 more")


def test_images_without_class_folders_are_refused(tmp_path: Path) -> None:
    for domain in DOMAINS:
        write_image(tmp_path / domain / "1.jpg")
    assert "images are expected in domain/class/" in problems_of(tmp_path)[0]


def test_everything_wrong_is_told_at_once(root: Path) -> None:
    (root / "art" / "cat" / "0000.jpg").write_bytes(b"")
    (root / "art" / "cat" / "0009.png").symlink_to(root / "nowhere.png")
    (root / "photo" / "dog" / "0001.jpg").unlink()
    (root / "photo" / "dog" / "0003.jpg").rename(root / "photo" / "dog" / "0003.txt")
    shutil.rmtree(root / "sketch" / "cat")
    assert problems_of(root) == (
        "domain(s) 'sketch' lack the class(es) 'cat'",
        MAY_LACK,
        "class 'dog' of domain 'photo' has no image",
        "2 image(s) hold nothing: 'art/cat/0000.jpg', 'art/cat/0009.png'; --skip_bad_images leaves them out",
        "left out 1 file(s) that can't be read as images: 1 .txt",
    )


def test_a_folder_that_can_not_be_read_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refuse(path: str | Path) -> object:
        if str(path).endswith("dog"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert problems_of(root) == (f"{root / 'art' / 'dog'} can't be read: Permission denied",)


def test_a_bad_image_is_named_when_it_is_decoded(root: Path) -> None:
    truncate(root / "art" / "cat" / "0002.jpg")
    (root / "art" / "dog" / "0001.jpg").write_text("<html>quota exceeded</html>")
    examples = folder(path=root).examples("art", 0)
    examples.batch(np.array([0, 3]), None)
    for index, name, reason in ((1, "cat/0002.jpg", "truncated"), (2, "dog/0001.jpg", "cannot identify")):
        with pytest.raises(UserError, match=rf"{root}/art/{name} can't be decoded \(.*{reason}.*--skip_bad_images"):
            examples.batch(np.array([index]), None)


def test_whatever_a_decoder_raises_names_the_image(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(error: BaseException) -> None:
        def opened(path: Path) -> None:
            raise error

        monkeypatch.setattr(decoding.Image, "open", opened)

    examples = folder(path=root).examples("art", 0)
    for error in (SyntaxError("broken PNG file"), struct.error("unpack"), Image.DecompressionBombError("too big")):
        fail(error)
        with pytest.raises(UserError, match=f"0000.jpg can't be decoded .{error}"):
            examples.batch(np.array([0]), None)
    fail(MemoryError())
    with pytest.raises(MemoryError):
        examples.batch(np.array([0]), None)


def test_bad_images_are_left_out_and_logged_if_asked(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    truncate(root / "art" / "cat" / "0002.jpg")
    (root / "photo" / "dog" / "0001.jpg").write_bytes(b"")
    whole = write_folders(root.parent / "whole", DOMAINS, CLASSES)
    (whole / "art" / "cat" / "0002.jpg").unlink()
    (whole / "photo" / "dog" / "0001.jpg").unlink()
    with caplog.at_level(logging.WARNING):
        dataset = folder(path=root, skip_bad_images=True)
    assert dataset.counts() == [3, 3, 4]
    assert dataset.fingerprint() == folder(path=whole).fingerprint()
    for domain in DOMAINS:
        assert np.array_equal(inputs_of(dataset, domain), inputs_of(folder(path=whole), domain))
    assert "left out 2 bad image(s)" in caplog.text
    assert "art/cat/0002.jpg" in caplog.text
    assert "photo/dog/0001.jpg" in caplog.text
    assert "art/cat/0000.jpg" not in caplog.text


def test_named_data_sets_are_cached_in_the_data_directory(named: type[ImageDataset], tmp_path: Path) -> None:
    dataset = named(data_dir=tmp_path, image_size=16)
    assert dataset.image_cache().place == tmp_path / ".dgbench-cache"
    examples = dataset.examples(named.card.domains[2], 0)
    assert np.array_equal(examples.cached().batch(np.arange(68), None), examples.batch(np.arange(68), None))


def test_images_are_tried_once_in_a_process(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = folder(path=root, skip_bad_images=True)
    monkeypatch.setattr(Decoding, "__call__", None)
    assert folder(path=root, skip_bad_images=True).counts() == first.counts()


def test_a_class_of_bad_images_alone_is_refused(root: Path) -> None:
    for path in (root / "art" / "cat").iterdir():
        truncate(path)
    assert problems_of(root, skip_bad_images=True)[0] == "class 'cat' of domain 'art' has no image"


@pytest.mark.parametrize(("cls", "total"), NAMED.items())
def test_cards_of_named_data_sets(cls: type[ImageDataset], total: int) -> None:
    card = cls.card
    assert sum(card.counts.values()) == total
    assert tuple(card.counts) == card.domains
    assert len(card.classes) == len(set(card.classes)) == {PACS: 7, VLCS: 5, OfficeHome: 65}[cls]
    assert list(card.classes) == sorted(card.classes)
    assert list(card.domains) == sorted(card.domains)
    assert card.input_shape == (3, 224, 224)
    assert (card.steps, card.checkpoint_freq) == (5001, 300)


@pytest.fixture(params=NAMED, ids=lambda cls: cls.__name__)
def named(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> type[ImageDataset]:
    """A named data set with 66 to 69 images a domain, written to `tmp_path`."""
    cls: type[ImageDataset] = request.param
    counts = {domain: 66 + i for i, domain in enumerate(cls.card.domains)}
    monkeypatch.setattr(cls, "card", dataclasses.replace(cls.card, counts=counts))
    write_folders(tmp_path / cls.card.folder, counts, cls.card.classes, extension=".png" if cls is PACS else ".jpg")
    return cls


def test_named_data_sets_are_read_from_their_folders(named: type[ImageDataset], tmp_path: Path) -> None:
    place = tmp_path / named.card.folder
    write_clutter(place)
    write_image(place / "tmp" / "leftover" / "1.jpg")
    with pytest.raises(UserError, match=r"has the unexpected folder\(s\) 'tmp': move them away"):
        named(data_dir=tmp_path)
    shutil.rmtree(place / "tmp")
    dataset = named(data_dir=tmp_path)
    assert dataset.domains == named.card.domains
    assert dataset.classes == named.card.classes
    assert dataset.counts() == [66, 67, 68, 69]
    assert dataset.fingerprint() == folder(path=place).fingerprint()
    assert np.bincount(dataset.examples(named.card.domains[3], 0).labels).tolist() == [
        len(range(c, 69, len(named.card.classes))) for c in range(len(named.card.classes))
    ]


def test_a_wrong_number_of_images_is_refused(named: type[ImageDataset], tmp_path: Path) -> None:
    domain = named.card.domains[1]
    next((tmp_path / named.card.folder / domain / named.card.classes[0]).iterdir()).unlink()
    for skip in (False, True):
        with pytest.raises(UserError, match=f"domain '{domain}' has 66 images, expected 67"):
            named(data_dir=tmp_path, skip_bad_images=skip)


def test_bad_images_of_named_data_sets_may_be_left_out(named: type[ImageDataset], tmp_path: Path) -> None:
    truncate(next((tmp_path / named.card.folder / named.card.domains[0] / named.card.classes[0]).iterdir()))
    assert named(data_dir=tmp_path, skip_bad_images=True).counts() == [65, 67, 68, 69]


def test_renamed_and_missing_folders_of_named_data_sets_are_told_at_once(
    named: type[ImageDataset], tmp_path: Path
) -> None:
    place, (first, second, third, _) = tmp_path / named.card.folder, named.card.domains
    (place / first / named.card.classes[0]).rename(place / first / "Other")
    (place / second).rename(place / "Other")
    (place / third / "surplus").mkdir()
    with pytest.raises(UserError) as caught:
        named(data_dir=tmp_path)
    assert caught.value.problems[0].startswith(f"{place} lacks the domain(s) '{second}'; {place} has ")
    assert f"domain(s) '{first}' lack the class(es) '{named.card.classes[0]}'" in caught.value.problems
    assert f"domain '{first}' has the unexpected class(es) 'Other'" in caught.value.problems
    assert f"domain '{third}' has the unexpected class(es) 'surplus'" in caught.value.problems


def test_the_expected_folder_of_a_named_data_set_is_told(named: type[ImageDataset], tmp_path: Path) -> None:
    name, expected = named.__name__, named.card.folder
    with pytest.raises(UserError, match=f"{name} is read from {expected} under --data_dir, which is not given"):
        named()
    (tmp_path / expected).rename(tmp_path / "kfold")
    with pytest.raises(UserError) as caught:
        named(data_dir=tmp_path)
    assert str(caught.value) == (
        f"{name} is expected in the folder {tmp_path / expected}, which does not exist; {tmp_path} has 'kfold'"
    )
    with pytest.raises(UserError, match=r"which does not exist$"):
        named(data_dir=tmp_path / "nowhere")


@pytest.mark.timeout(60)
def test_pipes_among_the_images_are_not_waited_for(tmp_path: Path) -> None:
    root = write_folders(tmp_path / "toy", ["a", "b"], ["x", "y"], ".png")
    os.mkfifo(root / "a" / "x" / "pipe")  # opened, it waits for a writer for ever
    os.mkfifo(root / "a" / "x" / "pipe.png")
    with pytest.raises(UserError, match=r"1 image\(s\) hold nothing: 'a/x/pipe.png'; --skip_bad_images"):
        folder(path=root)
    assert folder(path=root, skip_bad_images=True).counts() == [4, 4]
