"""Decode image files by Pillow to RGB with 8 bits a channel.

Of an animation the first frame is read. Modes that Pillow can show (gray, palette, CMYK) are converted by it; those of
more than 8 bits, which it would clip at 255, are scaled.
"""

from __future__ import annotations

import io
import logging
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from dgbench.core.errors import UserError
from dgbench.core.wording import printable

JPEG_BEGINS, _JPEG_ENDS = b"\xff\xd8", b"\xff\xd9"
_POINTER = b"version https://git-lfs."
"""First bytes of a file that Git LFS has put in the place of an image."""
_WIDE = ("I", "F")
"""Pillow's modes of more than 8 bits."""
_SCALED_TO_16 = ("PNG", "PPM", "JPEG2000")
"""Formats of which some versions of Pillow return 16 bits in mode `I`. Values of fewer bits are scaled to all 16."""
_BITS, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0  # tags of TIFF
_ORIENTATION, _ON_ITS_SIDE = 0x0112, 5  # EXIF: from 5 on, width and height change places
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> transposition that turns the image upright."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Decoding:
    """The way in which a data set's image files are decoded; called with a path, it returns the image in RGB.

    The default is DomainBed's: EXIF orientation is ignored, and of transparent pixels the colors below the transparency
    count.
    """

    turn: bool = False
    """Turn images as their EXIF orientation demands."""
    on_white: bool = False
    """Blend transparent images with white."""
    cut_off: tuple[Path, ...] = ()
    """Folders whose JPEGs may end early: they are decoded as far as they go, and logged.

    The pixels are those that Pillow returns under `LOAD_TRUNCATED_IMAGES`, which DomainBed sets, as the same marker is
    added at the end. That switch acts on every image of the process, and so would hide files that a copy or a download
    has damaged.
    """
    most_pixels: int = 0
    """Largest image in pixels; a larger one counts as a decompression bomb. 0: Pillow's limit."""
    advice: str = "repair it, or use --skip_bad_images"
    """Advice to the user about an image that can't be decoded."""

    @property
    def identity(self) -> str:
        """Return the names of the departures from the default that change pixels; empty if there are none."""
        return " ".join(name for name, differs in (("turned", self.turn), ("on white", self.on_white)) if differs)

    def __call__(self, path: Path) -> Image.Image:
        """Decode a file.

        Raises:
            UserError: It can't be decoded; with its path, the reason and advice.
        """
        try:
            return self._decode(path)
        # Lack of memory says nothing about the file.
        except MemoryError:
            raise
        except Image.DecompressionBombError as error:
            advice = "--max_image_pixels N takes images of N pixels, if you trust it; or make it smaller"
            raise UserError(f"image {printable(str(path))} can't be decoded ({error}): {advice}") from error
        except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, zlib.error, ...
            if any(folder in path.parents for folder in self.cut_off) and (found := self._completed(path)):
                _log_cut_off(path)
                return found
            where, why = printable(str(path)), printable(str(error))
            advice = "`git lfs pull` fetches the image for which it stands" if _is_pointer(path) else self.advice
            raise UserError(f"image {where} can't be decoded ({why}): {advice}") from error

    def size(self, path: Path) -> tuple[int, int] | None:
        """Return the width and height that a file's image will have, without decoding; None if they can't be read."""
        try:
            with Image.open(path) as image:
                width, height = image.size
                on_its_side = self.turn and image.getexif().get(_ORIENTATION, 1) >= _ON_ITS_SIDE
                return (height, width) if on_its_side else (width, height)
        except Exception:  # as many kinds as there are formats
            return None

    def _decode(self, file: Path | io.BytesIO) -> Image.Image:
        """Open and convert an image; errors are Pillow's."""
        if self.most_pixels:
            # Pillow's limit is global to the process; so is the option it comes from, so threads that set it agree.
            Image.MAX_IMAGE_PIXELS = self.most_pixels
        with Image.open(file) as image:
            found = to_rgb(image, on_white=self.on_white)
            turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1)) if self.turn else None
            return found if turn is None else found.transpose(turn)

    def _completed(self, path: Path) -> Image.Image | None:
        """Decode a JPEG with the end marker added; return None if that doesn't help."""
        try:
            content = path.read_bytes()
            return self._decode(io.BytesIO(content + _JPEG_ENDS)) if content.startswith(JPEG_BEGINS) else None
        except MemoryError:
            raise
        except Exception:  # as many kinds as in `__call__`, whose message stands
            return None


def lacks_range(path: Path) -> bool:
    """Return whether the range of a file's values is unknown, so that they can't be scaled; False if unreadable."""
    try:
        with Image.open(path) as image:
            return image.mode in _WIDE and not _depth(image)
    except Exception:  # as many kinds as there are formats
        return False


def is_turned(path: Path) -> bool:
    """Return whether a file's EXIF asks for its image to be turned; False if it can't be read."""
    try:
        with Image.open(path) as image:
            return image.getexif().get(_ORIENTATION, 1) in _TURNS
    except Exception:  # as many kinds as there are formats
        return False


def to_rgb(image: Image.Image, *, on_white: bool = False) -> Image.Image:
    """Convert an image to RGB as Pillow does, except that of gray with more than 8 bits the upper 8 are kept.

    Args:
        image: Of any mode.
        on_white: Blend transparent pixels with white; False: take the colors below the transparency.

    Raises:
        ValueError: The range of the values is unknown: integers of 32 bits, floats.
    """
    if depth := _depth(image):
        grey = (np.asarray(image).astype(np.uint32) >> (depth - 8)).astype(np.uint8)
        # In a TIFF, 0 may stand for white; Pillow inverts such images only up to 8 bits.
        return Image.fromarray(~grey if _tag(image, _PHOTOMETRIC) == _WHITE_IS_ZERO else grey).convert("RGB")
    if image.mode in _WIDE:
        values = "floats" if image.mode == "F" else "signed integers or integers of 32 bits"
        raise ValueError(f"it holds {values}, of which no range is known: save it with 8 or 16 bits")
    if image.mode == "RGBa" or (on_white and ("A" in image.getbands() or "transparency" in image.info)):
        image = image.convert("RGBA")
        if on_white and image.getchannel("A").getextrema() != (255, 255):
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _is_pointer(path: Path) -> bool:
    """Return whether a file stands for one that Git LFS has not downloaded."""
    try:
        with path.open("rb") as file:
            return file.read(len(_POINTER)) == _POINTER
    except OSError:
        return False


def _depth(image: Image.Image) -> int:
    """Return the bits of a gray value if they are more than 8 and unsigned; otherwise 0."""
    if image.mode.startswith("I;16"):
        return int(_tag(image, _BITS) or 16)
    return 16 if image.mode == "I" and image.format in _SCALED_TO_16 else 0


def _tag(image: Image.Image, number: int) -> int | None:
    """Return a tag of a TIFF; None if it has none, or is no TIFF."""
    value = getattr(image, "tag_v2", {}).get(number)
    return value[0] if isinstance(value, tuple) else value


@cache
def _log_cut_off(path: Path) -> None:
    """Log a file that ends early; cached, so once for each file in a process."""
    _log.warning("image %s ends early: decoded as far as it goes", path)
