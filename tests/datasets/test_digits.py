from __future__ import annotations

import dataclasses
import gzip
import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import rotate

from dgbench import cli, download
from dgbench.core.data_cards import Archive, DatasetCard
from dgbench.core.errors import UserError
from dgbench.datasets._digits import enlarged, sklearn_digits
from dgbench.datasets.colored import ColoredDigits, ColoredMNIST, colored
from dgbench.datasets.rotated import RotatedDigits, RotatedMNIST, rotated
from tests.support.layouts import idx_bytes, write_mnist

MNIST = (RotatedMNIST, ColoredMNIST)
ALL = (RotatedDigits, ColoredDigits, *MNIST)


def tiny(card: DatasetCard, total: int) -> DatasetCard:
    d = len(card.domains)
    counts = {domain: len(range(i, total, d)) for i, domain in enumerate(card.domains)}
    return dataclasses.replace(card, counts=counts)


@pytest.fixture
def tiny_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    for cls in MNIST:
        monkeypatch.setattr(cls, "card", tiny(cls.card, 21))


def test_the_pool_is_scikit_learns() -> None:
    images, labels = sklearn_digits()
    theirs = load_digits()
    assert images.dtype == np.uint8
    assert np.array_equal(np.rint(images / 255 * 16), theirs.images)
    assert images.max() == 255
    assert np.array_equal(labels, theirs.target)


def test_the_pool_is_read_once_and_without_importing_scikit_learn() -> None:
    code = (
        "import sys\n"
        "from dgbench.datasets import _digits\n"
        "from dgbench.datasets.rotated import RotatedDigits\n"
        "from dgbench.datasets.colored import ColoredDigits\n"
        "ColoredDigits().preload()\n"
        "_digits.np.loadtxt = None\n"
        "RotatedDigits().examples('15', 0).batch(_digits.np.arange(3), None)\n"
        "print(sorted({'torch', 'torchvision', 'sklearn', 'scipy'} & set(sys.modules)))\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("cls", ALL)
def test_counts_of_the_card_are_those_of_dealing_the_pool(cls: type) -> None:
    total = 70_000 if cls.card.folder else 1_797
    assert cls.card.counts == tiny(cls.card, total).counts


@pytest.mark.parametrize("cls", [RotatedDigits, ColoredDigits])
def test_examples_have_the_cards_shape_and_number(cls: type) -> None:
    dataset = cls()
    for domain, count in zip(dataset.domains, dataset.counts(), strict=True):
        examples = dataset.examples(domain, 0)
        inputs = examples.batch(np.arange(count), None)
        assert inputs.shape == (count, *dataset.input_shape)
        assert inputs.dtype == np.uint8
        assert examples.labels.shape == (count,)
        assert examples.labels.dtype == np.int64
        assert set(examples.labels) == set(range(len(dataset.classes)))
        assert examples.groups is None


@pytest.mark.parametrize("cls", [RotatedDigits, ColoredDigits])
def test_examples_depend_on_the_seed_alone(cls: type) -> None:
    drawn = [cls().examples(cls.card.domains[1], seed) for seed in (5, 5, 6)]
    assert np.array_equal(drawn[0].inputs, drawn[1].inputs)
    assert np.array_equal(drawn[0].labels, drawn[1].labels)
    assert not np.array_equal(drawn[0].inputs, drawn[2].inputs)


def test_the_domains_share_the_pool_out() -> None:
    """Undone by channel, every digit of the pool turns up in exactly one domain."""
    images, _ = sklearn_digits()
    dataset = ColoredDigits()
    dealt = np.concatenate([dataset.examples(domain, 3).inputs.max(1) for domain in dataset.domains])
    assert sorted(image.tobytes() for image in dealt) == sorted(image.tobytes() for image in images)
    first = dataset.examples("+90%", 3).inputs.max(1)
    assert not np.array_equal(first, images[: len(first)])


@pytest.mark.parametrize("degrees", [0.0, 15.0, 30.0, 45.0, 60.0, 75.0])
@pytest.mark.parametrize(("n", "height", "width"), [(7, 8, 8), (4, 28, 28), (1, 5, 9)])
def test_rotated_is_torchvisions_rotation_of_each_image(degrees: float, n: int, height: int, width: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (n, height, width), np.uint8)
    turned = rotated(images, degrees)
    expected = [rotate(Image.fromarray(image), degrees, InterpolationMode.BILINEAR, fill=[0]) for image in images]
    assert np.array_equal(turned, np.stack([np.asarray(image) for image in expected])[:, None])


def test_rotated_digits_keep_their_labels() -> None:
    by_image = {image.tobytes(): label for image, label in zip(*sklearn_digits(), strict=True)}
    examples = RotatedDigits().examples("0", 1)
    assert all(
        by_image[image.tobytes()] == label for image, label in zip(examples.inputs, examples.labels, strict=True)
    )
    assert (
        len({RotatedDigits().examples(domain, 1).inputs[:299].tobytes() for domain in RotatedDigits.card.domains}) == 6
    )


@pytest.mark.parametrize("miscolored", [0.1, 0.2, 0.9])
def test_colors_and_labels_have_the_stated_noise(miscolored: float) -> None:
    n = 20_000
    digits = np.arange(n) % 10
    images = np.full((n, 2, 3), 7, np.uint8)
    inputs, labels = colored(images, digits, miscolored, seed=0)
    assert np.array_equal(inputs.sum(1), images)
    assert np.all((inputs.max((2, 3)) > 0).sum(1) == 1)
    colors = inputs[:, 1].max((1, 2)) > 0
    noisy, off = labels != (digits < 5), colors != labels
    tolerance = 5 * 0.5 / n**0.5
    assert abs(noisy.mean() - 0.25) < tolerance
    assert abs(off.mean() - miscolored) < tolerance
    assert abs(off[noisy].mean() - miscolored) < 2 * tolerance
    assert abs((digits[labels == 1] < 5).mean() - 0.75) < 2 * tolerance


def test_color_domains_have_the_signs_of_their_names() -> None:
    for domain, agreement in (("+90%", 0.9), ("+80%", 0.8), ("-90%", 0.1)):
        examples = ColoredDigits().examples(domain, 0)
        colors = examples.inputs[:, 1].max((1, 2)) > 0
        assert abs((colors == examples.labels).mean() - agreement) < 0.1


def test_fingerprints_tell_data_sets_apart_and_nothing_else() -> None:
    assert RotatedDigits().fingerprint() == RotatedDigits().fingerprint()
    assert RotatedDigits().fingerprint() != ColoredDigits().fingerprint()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.usefixtures("tiny_counts")
def test_mnist_is_read_from_idx_files_training_ones_first(tmp_path: Path, packed: bool) -> None:
    images, labels = write_mnist(tmp_path, packed=packed)
    dataset = RotatedMNIST(data_dir=tmp_path)
    dataset.preload()
    assert dataset.counts() == [4, 4, 4, 3, 3, 3]
    by_image = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    upright = dataset.examples("0", 0)
    assert [by_image[image.tobytes()] for image in upright.inputs] == upright.labels.tolist()
    dealt = np.concatenate([ColoredMNIST(data_dir=tmp_path).examples(d, 0).inputs for d in ColoredMNIST.card.domains])
    assert dealt.shape == (21, 2, 28, 28)
    assert {image.max(0).tobytes() for image in dealt} == set(by_image)


@pytest.mark.usefixtures("tiny_counts")
def test_mnists_fingerprint_depends_on_the_bytes_not_on_packing(tmp_path: Path) -> None:
    write_mnist(tmp_path / "a")
    write_mnist(tmp_path / "b", packed=True)
    images, _ = write_mnist(tmp_path / "c")
    images[0, 0, 0] ^= 1
    (tmp_path / "c" / "MNIST" / "raw" / "train-images-idx3-ubyte").write_bytes(idx_bytes(images[:13]))
    prints = [RotatedMNIST(data_dir=tmp_path / folder).fingerprint() for folder in "abc"]
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.usefixtures("tiny_counts")
@pytest.mark.parametrize("cls", MNIST)
def test_missing_mnist_files_are_named_all_with_the_way_out(tmp_path: Path, cls: type) -> None:
    with pytest.raises(UserError, match=f"{cls.__name__} is read from MNIST/raw under --data_dir"):
        cls()
    write_mnist(tmp_path)
    for name in ("train-labels-idx1-ubyte", "t10k-images-idx3-ubyte"):
        (tmp_path / "MNIST" / "raw" / name).unlink()
    with pytest.raises(UserError) as caught:
        cls(data_dir=tmp_path)
    message = str(caught.value)
    assert "needs train-labels-idx1-ubyte, t10k-images-idx3-ubyte in" in message
    assert str(tmp_path / "MNIST" / "raw") in message
    assert "https://" in message


def test_a_wrong_number_of_mnist_images_is_refused(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    with pytest.raises(UserError, match=r"has 21 images in both files together, expected 70,000"):
        RotatedMNIST(data_dir=tmp_path)


@pytest.mark.usefixtures("tiny_counts")
def test_wrong_heads_are_told_all_at_once(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    raw = tmp_path / "MNIST" / "raw"
    (raw / "train-images-idx3-ubyte").write_bytes(idx_bytes(np.zeros((13, 27, 28), np.uint8)))
    (raw / "train-labels-idx1-ubyte").write_bytes(idx_bytes(np.zeros(12, np.uint8)))
    (raw / "t10k-images-idx3-ubyte").write_bytes(b"<html>not found</html>")
    with pytest.raises(UserError) as caught:
        RotatedMNIST(data_dir=tmp_path)
    assert [problem.partition(" ")[0].rpartition("/")[2] for problem in caught.value.problems] == [
        "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
        "t10k-images-idx3-ubyte",
    ]
    assert "27 x 28, not 28 x 28" in caught.value.problems[0]
    assert "12 labels for the 13 images" in caught.value.problems[1]
    assert "not an idx file" in caught.value.problems[2]


@pytest.mark.usefixtures("tiny_counts")
@pytest.mark.parametrize("packed", [False, True])
def test_a_truncated_mnist_file_is_named_when_it_is_read(tmp_path: Path, packed: bool) -> None:
    write_mnist(tmp_path, packed=packed)
    path = tmp_path / "MNIST" / "raw" / f"t10k-images-idx3-ubyte{'.gz' if packed else ''}"
    path.write_bytes(path.read_bytes()[:-100])
    dataset = RotatedMNIST(data_dir=tmp_path)
    with pytest.raises(UserError, match=r"t10k-images-idx3-ubyte.* (is damaged|can't be read)"):
        dataset.preload()


@pytest.mark.usefixtures("tiny_counts")
def test_a_file_that_is_no_gzip_is_named(tmp_path: Path) -> None:
    write_mnist(tmp_path, packed=True)
    path = tmp_path / "MNIST" / "raw" / "train-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.decompress(path.read_bytes()))
    with pytest.raises(UserError, match=r"train-labels-idx1-ubyte.gz can't be read"):
        RotatedMNIST(data_dir=tmp_path)


@pytest.mark.parametrize(("cls", "channels"), [(RotatedDigits, 1), (ColoredDigits, 2)])
@pytest.mark.parametrize("side", [28, 64])
def test_scikit_learns_digits_are_enlarged_on_request(
    cls: type[RotatedDigits | ColoredDigits], channels: int, side: int
) -> None:
    small, large = cls(), cls(image_size=side)
    large.preload()
    domain = large.domains[0]
    few, many = small.examples(domain, 3), large.examples(domain, 3)
    assert large.input_shape == (channels, side, side)
    assert len(many.labels) == large.counts()[0]
    assert np.array_equal(few.labels, many.labels)
    assert large.fingerprint() != small.fingerprint()
    positions = np.arange(9)
    pairs = zip(few.batch(positions, None), many.batch(positions, None), strict=True)
    for before, after in pairs:  # not turned, or in one of two channels
        assert after.shape == (channels, side, side)
        assert np.array_equal(after.sum(0), enlarged(before.sum(0).astype(np.uint8), side))


def test_image_sizes_that_digits_do_not_have_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="RotatedDigits has images of 8 x 8 pixels, or enlarged to 16 x 16 and more"):
        RotatedDigits(image_size=12)
    with pytest.raises(UserError, match="RotatedMNIST has images of 28 x 28 pixels and no other size"):
        RotatedMNIST(data_dir=tmp_path, image_size=64)


@pytest.mark.parametrize("packed", [False, True])
def test_mnists_own_files_are_organised(packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, _ = write_mnist(tmp_path / "mine", packed=packed)
    files = sorted((tmp_path / "mine" / "MNIST" / "raw").iterdir())
    card = dataclasses.replace(
        RotatedMNIST.card, counts={d: len(images) if d == "0" else 0 for d in RotatedMNIST.card.domains}
    )
    monkeypatch.setattr(RotatedMNIST, "card", card)
    hashes = [Archive(path.name, md5=hashlib.md5(path.read_bytes()).hexdigest()) for path in files]
    monkeypatch.setattr(RotatedMNIST, "archives", hashes)
    words = ["RotatedMNIST", "--data_dir", str(tmp_path / "data"), "--from", *map(str, files)]
    assert cli.run(download.main, words) == 0
    assert sorted(path.name for path in (tmp_path / "data" / "MNIST" / "raw").iterdir()) == [p.name for p in files]


def test_mnists_published_hashes_are_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_mnist(tmp_path / "mine", packed=True)
    files = sorted((tmp_path / "mine" / "MNIST" / "raw").iterdir())
    words = ["ColoredMNIST", "--data_dir", str(tmp_path / "data"), "--from", *map(str, files)]
    assert cli.run(download.main, words) == 2
    assert capsys.readouterr().err.count("MD5") == 4
    assert not (tmp_path / "data").exists()
