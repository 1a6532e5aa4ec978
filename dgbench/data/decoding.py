"""Decode image files by Pillow to RGB, 8 bits a channel.

Of an animation the first frame is read. Modes of which Pillow knows how they look are converted as it does (grey,
palette, CMYK); those of more than 8 bits, which it would cut off at 255, are scaled.
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
_WIDE = ("I", "F")
_SCALED_TO_16 = ("PNG", "PPM", "JPEG2000")
"""Formats of which some Pillow shows 16 bits as integers (`I`), scaled to all of the 16 bits whatever the depth."""
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
"""Orientation -> what makes the image upright."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Decoding:
    """How the image files of a data set are decoded; called with a path, it returns the image in RGB.

    By default as DomainBed does: not turned by EXIF, and of what is transparent the colours that lie below. Where
    pixels are others than by default, `identity` says how.
    """

    turn: bool = False
    """Turn images as their EXIF says."""
    on_white: bool = False
    """Lay what is transparent on white."""
    cut_off: tuple[Path, ...] = ()
    """Folders of which JPEGs that end early are decoded as far as they go, and logged.

    The pixels are those that Pillow finds under `LOAD_TRUNCATED_IMAGES`, which DomainBed sets, for the same marker is
    added. But that holds for every image of the process, and so hides files that a copy or a download has damaged."""
    most_pixels: int = 0
    """Largest image that is no decompression bomb; 0: as Pillow says."""
    advice: str = "repair it, or use --skip_bad_images"
    """What to do with an image that can't be decoded."""

    @property
    def identity(self) -> str:
        """Name the departures of the pixels from the default; empty if there are none."""
        return " ".join(name for name, differs in (("turned", self.turn), ("on white", self.on_white)) if differs)

    def __call__(self, path: Path) -> Image.Image:
        """Decode a file; raise `UserError` with its name, the reason and the advice if it can't be decoded."""
        try:
            return self._decode(path)
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
        """Read the width and height that a file's image will have; None if that can't be read."""
        try:
            with Image.open(path) as image:
                width, height = image.size
                on_its_side = self.turn and image.getexif().get(_ORIENTATION, 1) >= _ON_ITS_SIDE
                return (height, width) if on_its_side else (width, height)
        except Exception:  # as many kinds as there are formats
            return None

    def _decode(self, file: Path | io.BytesIO) -> Image.Image:
        if self.most_pixels:
            # Pillow's limit is the process' own, which has one value of the option: threads that set it agree.
            Image.MAX_IMAGE_PIXELS = self.most_pixels
        with Image.open(file) as image:
            found = to_rgb(image, on_white=self.on_white)
            turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1)) if self.turn else None
            return found if turn is None else found.transpose(turn)

    def _completed(self, path: Path) -> Image.Image | None:
        """Decode a JPEG with the marker of the end added; None if that doesn't help."""
        try:
            content = path.read_bytes()
            return self._decode(io.BytesIO(content + _JPEG_ENDS)) if content.startswith(JPEG_BEGINS) else None
        except MemoryError:
            raise
        except Exception:  # as many kinds as in `__call__`, whose message stands
            return None


def lacks_range(path: Path) -> bool:
    """Tell whether a file holds values that can't be scaled to 8 bits; a file that can't be read does not."""
    try:
        with Image.open(path) as image:
            return image.mode in _WIDE and not _depth(image)
    except Exception:  # as many kinds as there are formats
        return False


def is_turned(path: Path) -> bool:
    """Tell whether a file's EXIF says that its image is to be turned; that of one that can't be read does not."""
    try:
        with Image.open(path) as image:
            return image.getexif().get(_ORIENTATION, 1) in _TURNS
    except Exception:  # as many kinds as there are formats
        return False


def to_rgb(image: Image.Image, *, on_white: bool = False) -> Image.Image:
    """Convert an image to RGB, as Pillow does but for grey of more than 8 bits, of which the upper 8 are kept.

    Args:
        image: Of any mode.
        on_white: Whether what is transparent is laid on white; else the colours below it show.

    Raises:
        ValueError: The values have no range that is known: integers of 32 bits, floats.
    """
    if depth := _depth(image):
        grey = (np.asarray(image).astype(np.uint32) >> (depth - 8)).astype(np.uint8)
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
    """Tell whether a file stands for one that Git LFS has not fetched."""
    try:
        with path.open("rb") as file:
            return file.read(len(_POINTER)) == _POINTER
    except OSError:
        return False


def _depth(image: Image.Image) -> int:
    """Return how many bits a grey value has, if they are more than 8 and unsigned; else 0."""
    if image.mode.startswith("I;16"):
        return int(_tag(image, _BITS) or 16)
    return 16 if image.mode == "I" and image.format in _SCALED_TO_16 else 0


def _tag(image: Image.Image, number: int) -> int | None:
    """Return a tag of a TIFF; None where there is none."""
    value = getattr(image, "tag_v2", {}).get(number)
    return value[0] if isinstance(value, tuple) else value


@cache
def _log_cut_off(path: Path) -> None:
    _log.warning("image %s ends early: decoded as far as it goes", path)
