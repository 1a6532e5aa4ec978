"""Write the examples of a data set to files: images as PNG files and a table, tensors as arrays."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dgbench.core.errors import UserError
from dgbench.core.wording import shorten, with_article
from dgbench.data.decoding import to_rgb
from dgbench.datasets.arrays import FACTS, INPUTS, ArrayFacts, write_arrays
from dgbench.store.files import write_atomic

_IMAGES = "images"


class Writer(Protocol):
    """A form in which examples are written to a folder."""

    by_name: bool
    """Whether the files' reader sorts domains and classes by name."""

    def add(self, number: int, value: Any) -> None:
        """Write the input of an example; raise UserError, in words that follow `the input of example 3`."""
        ...

    def finish(self, labels: Sequence[int], classes: Sequence[str], of: Sequence[int], domains: Sequence[str]) -> str:
        """Write labels and domains, by number and name; return a hash of all that was written."""
        ...


def writer_for(value: Any, folder: Path, total: int, name: str) -> tuple[str, Writer]:
    """Return the path below the folder, as in the data set's name, and the writer that suit the first input.

    Raises:
        UserError: It is a text, or nothing that a network takes.
    """
    if image_of(value) is not None:
        return f"csv:{name}.csv", ImageFiles(folder, name)
    return "arrays:", ArrayFiles(folder, array_of(value), total)


def image_of(value: Any) -> Image.Image | None:
    """Return an input as an image of Pillow, if it is one or an array of bytes (H, W), (H, W, 3) or (H, W, 4)."""
    if isinstance(value, Image.Image):
        return value
    is_bytes = isinstance(value, np.ndarray) and value.dtype == np.uint8
    if is_bytes and (value.ndim == 2 or (value.ndim == 3 and value.shape[2] in (3, 4))):
        return Image.fromarray(value)
    return None


def array_of(value: Any) -> NDArray[Any]:
    """Return an input as an array of uint8 or float32: a vector, or an image (C, H, W).

    Raises:
        UserError: It is none, in words that follow `the input of example 3`.
    """
    if isinstance(value, str | bytes):
        raise UserError(f"is a text ({shorten(repr(value), 40)}): texts need a class of yours, or features of them")
    if hasattr(value, "detach"):  # a tensor, of which NumPy lacks bfloat16
        value = value.detach().cpu()
        value = (value.float() if value.is_floating_point() else value).numpy()
    try:
        found = np.asarray(value)
    except ValueError as error:
        raise UserError(f"is {with_article(type(value).__name__)} of unequal lengths") from error
    if found.dtype.kind not in "fiub" or found.ndim == 0 or 0 in found.shape:
        raise UserError(f"is {with_article(type(value).__name__)}, not an image, a vector or a tensor of numbers")
    found = found[None] if found.ndim == 2 else found
    if found.ndim > 3:
        raise UserError(f"has the shape {found.shape}: vectors and images (C, H, W) are known")
    if found.ndim == 3 and found.dtype == np.uint8:
        return found
    if found.ndim == 3 and found.dtype.kind != "f":
        raise UserError(f"is an image of {found.dtype}, of which no range is known: use uint8, or floats in [0, 1]")
    with np.errstate(over="ignore"):
        return found.astype(np.float32)


class ImageFiles:
    """A folder of PNG files, and a table of them that `csv:` reads; a file's name holds the hash of its pixels."""

    by_name = True

    def __init__(self, folder: Path, name: str) -> None:
        self._table = folder / f"{name}.csv"
        self._folder = folder / _IMAGES
        self._folder.mkdir()
        self._paths: list[str] = []

    def add(self, number: int, value: Any) -> None:
        """Write an image, on white where it is transparent, as `csv:` would read it."""
        image = image_of(value)
        if image is None:
            raise UserError(f"is {with_article(type(value).__name__)}, and the first is an image")
        try:
            found = image.copy() if image.mode == "L" and not image.info else to_rgb(image, on_white=True)
        except ValueError as error:
            raise UserError(f"can't be written: {error}") from error
        found.info = {}  # profiles, and a turn by EXIF that the data set may have applied
        digest = hashlib.sha256(f"{found.mode}{found.size}".encode() + found.tobytes()).hexdigest()[:16]
        path = f"{_IMAGES}/{number:07d}-{digest}.png"
        found.save(self._table.parent / path)
        self._paths.append(path)

    def finish(self, labels: Sequence[int], classes: Sequence[str], of: Sequence[int], domains: Sequence[str]) -> str:
        """Write the table."""
        with (part := self._table.with_suffix(".part")).open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(("path", "domain", "label"))
            rows.writerows(
                (path, domains[domain], classes[label])
                for path, domain, label in zip(self._paths, of, labels, strict=True)
            )
        content = part.read_bytes()
        part.unlink()
        write_atomic(self._table, content)
        return hashlib.sha256(content).hexdigest()


class ArrayFiles:
    """A file of inputs, all of one shape and type, and files of labels and domains that `arrays:` reads."""

    by_name = False

    def __init__(self, folder: Path, first: NDArray[Any], total: int) -> None:
        self._folder = folder
        self._inputs = np.lib.format.open_memmap(folder / INPUTS, "w+", first.dtype, (total, *first.shape))
        self._normalised = False

    def add(self, number: int, value: Any) -> None:
        """Write a tensor."""
        if image_of(value) is not None:
            raise UserError("is an image, and the first is a tensor")
        found = array_of(value)
        if found.shape != self._inputs.shape[1:]:
            raise UserError(f"has the shape {found.shape}, and the first {self._inputs.shape[1:]}: make them equal")
        if found.dtype != self._inputs.dtype:
            raise UserError(f"is of {found.dtype}, and the first of {self._inputs.dtype}")
        if found.dtype.kind == "f":
            if not np.isfinite(found).all():
                raise UserError("has numbers that are infinite or not a number")
            self._normalised |= bool(found.ndim == 3 and (found.min() < 0 or found.max() > 1))
        self._inputs[number] = found

    def finish(self, labels: Sequence[int], classes: Sequence[str], of: Sequence[int], domains: Sequence[str]) -> str:
        """Write labels, domains and facts."""
        self._inputs.flush()
        facts = ArrayFacts(tuple(domains), tuple(classes), self._normalised)
        return write_arrays(self._folder, facts, np.array(labels), np.array(of))


def same_content(one: Path, other: Path, kind: str) -> bool:
    """Return whether two folders hold the same examples: by the table of image files, or by the facts of arrays."""
    name = FACTS if kind == "arrays:" else kind.removeprefix("csv:")
    try:
        return (one / name).read_bytes() == (other / name).read_bytes()
    except OSError:
        return False
