"""Image files of every depth and mode, as they are decoded."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from dgbench.core.errors import UserError
from dgbench.data.decoding import Decoding, is_turned, lacks_range, to_rgb
from tests.conftest import Cases
from tests.support.layouts import noise, truncate

OWN = Decoding(on_white=True)
RAMP = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)


def pixels(path: Path, decoding: Decoding = OWN) -> NDArray[np.uint8]:
    return np.asarray(decoding(path))


@pytest.mark.parametrize("name", ["grey16.png", "grey16.tif", "grey16.pgm"])
def test_of_16_bits_the_upper_8_are_kept(cases: Cases, name: str) -> None:
    found = pixels(cases("modes") / name)
    assert np.array_equal(found, np.repeat((RAMP >> 8).astype(np.uint8)[..., None], 3, axis=2))
    assert found.flat[3 * int(np.argmax(RAMP.ravel() >= 32768))] == 128


def test_the_depth_of_a_file_counts_not_its_largest_value(cases: Cases) -> None:
    assert np.array_equal(pixels(cases("modes") / "grey12.png")[..., 0], RAMP >> 12)


def test_a_tiff_of_12_bits_is_scaled_by_12(tmp_path: Path) -> None:
    image = Image.fromarray(RAMP >> 4)
    image.tag_v2 = {258: (12,)}  # type: ignore[attr-defined]  # as Pillow opens one; it writes none
    assert np.array_equal(np.asarray(to_rgb(image))[..., 0], RAMP >> 8)


def test_a_tiff_in_which_0_is_white_is_inverted() -> None:
    image = Image.fromarray(RAMP)
    image.tag_v2 = {262: 0}  # type: ignore[attr-defined]
    assert np.array_equal(np.asarray(to_rgb(image))[..., 0], 255 - (RAMP >> 8))


def test_a_big_endian_tiff_is_read(tmp_path: Path) -> None:
    Image.frombytes("I;16B", (64, 64), RAMP.astype(">u2").tobytes()).save(tmp_path / "big.tif")
    with Image.open(tmp_path / "big.tif") as image:
        assert image.mode == "I;16B"
    assert np.array_equal(pixels(tmp_path / "big.tif")[..., 0], RAMP >> 8)


@pytest.mark.parametrize("name", ["float.tif", "int32.tif"])
def test_values_without_a_range_are_refused_by_name(cases: Cases, name: str) -> None:
    with pytest.raises(UserError, match=rf"{name} can't be decoded \(it holds .*no range is known.*8 or 16 bits"):
        pixels(cases("modes") / name)
    assert lacks_range(cases("modes") / name)
    assert not lacks_range(cases("modes") / "grey16.pgm")


def test_what_is_transparent_is_laid_on_white_or_shows_what_lies_below(cases: Cases, tmp_path: Path) -> None:
    found = pixels(cases("modes") / "transparent.png")
    assert found[0, 0].tolist() == [255, 255, 255]
    assert found[32, 32].tolist() == [200, 30, 30]
    assert pixels(cases("modes") / "transparent.png", Decoding())[0, 0].tolist() == [0, 0, 0]
    half = np.full((2, 2, 4), (0, 100, 200, 127), np.uint8)
    Image.fromarray(half).save(tmp_path / "half.png")
    assert pixels(tmp_path / "half.png")[0, 0].tolist() == [128, 178, 228]


def test_palettes_and_single_colours_may_be_transparent(tmp_path: Path) -> None:
    palette = noise(0).quantize(4)
    clear = np.asarray(palette) == 0
    assert clear.any()
    palette.save(tmp_path / "palette.gif", transparency=0)
    Image.new("L", (2, 2), 7).save(tmp_path / "grey.png", transparency=7)
    assert (pixels(tmp_path / "palette.gif")[clear] == 255).all()
    assert not (pixels(tmp_path / "palette.gif")[~clear] == 255).all(axis=-1).any()
    assert (pixels(tmp_path / "grey.png") == 255).all()


def test_of_an_animation_the_first_frame_is_read(tmp_path: Path) -> None:
    first, second = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")
    for name in ("moving.gif", "moving.webp", "moving.png", "pages.tif"):
        first.save(
            tmp_path / name, save_all=True, append_images=[second], **({"lossless": True} if "webp" in name else {})
        )
        assert (pixels(tmp_path / name) == (255, 0, 0)).all(), name


def test_an_image_is_turned_as_its_exif_says_where_that_is_asked_for(cases: Cases, tmp_path: Path) -> None:
    path, turning = cases("modes") / "turned.jpg", Decoding(turn=True)
    assert pixels(path).shape == (40, 80, 3)
    assert OWN.size(path) == (80, 40)
    assert is_turned(path)
    assert not is_turned(cases("modes") / "grey16.tif")
    found = pixels(path, turning)
    assert found.shape == (80, 40, 3)
    assert turning.size(path) == (40, 80)
    assert found[20, 20, 0] > 200 > 50 > found[60, 20, 0]
    upright = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    Image.fromarray(upright).save(tmp_path / "plain.png")
    assert np.array_equal(pixels(tmp_path / "plain.png", turning), upright)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(upright).save(tmp_path / "exif.png", exif=exif)
        from PIL import ImageOps  # the reference

        with Image.open(tmp_path / "exif.png") as image:
            expected = np.asarray(ImageOps.exif_transpose(image))
        assert np.array_equal(pixels(tmp_path / "exif.png", turning), expected)


def test_what_changes_pixels_is_named_and_nothing_else() -> None:
    assert Decoding().identity == Decoding(advice="x", most_pixels=9, cut_off=(Path("a"),)).identity == ""
    assert len({Decoding().identity, OWN.identity, Decoding(turn=True).identity}) == 3


def test_a_large_image_is_refused_with_the_way_to_take_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    Image.new("L", (30, 10)).save(tmp_path / "large.png")
    with pytest.raises(UserError, match=r"large.png can't be decoded .*300 pixels.*--max_image_pixels N"):
        pixels(tmp_path / "large.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pixels(tmp_path / "large.png", Decoding(most_pixels=300)).shape == (10, 30, 3)


def test_a_message_has_no_control_character_and_can_be_written(tmp_path: Path) -> None:
    path = Path(f"{tmp_path}/caf\udce9\x1b[31m.png")
    path.write_bytes(b"nothing")
    with pytest.raises(UserError) as caught:
        pixels(path)
    assert r"caf\xe9\x1b[31m.png can't be decoded" in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_jpeg_that_ends_early_is_read_only_where_that_is_known(tmp_path: Path) -> None:
    noise(0, (64, 64)).save(tmp_path / "cut.jpg")
    truncate(tmp_path / "cut.jpg")
    with pytest.raises(UserError, match="truncated"):
        pixels(tmp_path / "cut.jpg")
    assert pixels(tmp_path / "cut.jpg", Decoding(cut_off=(tmp_path,))).shape == (64, 64, 3)


def test_what_stands_for_a_file_that_was_not_fetched_is_told_as_that(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 3\n")
    with pytest.raises(UserError, match=r"1\.png can't be decoded .*: `git lfs pull` fetches the image"):
        pixels(tmp_path / "1.png")
