"""Find the image files that a user names: by path, folder, pattern, or as the lines of a csv file."""

from __future__ import annotations

import csv
import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from dgbench.core.errors import Problems, UserError

_PATHS = ("path", "file")
"""Columns that hold the paths in a csv file, in the order in which they are looked for."""


@dataclass(frozen=True)
class ImageFile:
    """An image file to predict."""

    path: Path
    name: str
    """The path as the user wrote it, or below the folder that was named."""
    label: str | None = None
    """Name of its class, where a csv file has the column `label`; None: unknown."""


def find_images(words: Sequence[str], root: Path | None = None) -> list[ImageFile]:
    """Return the image files that words name, in their order, those of a folder or pattern sorted by name.

    Args:
        words: Paths of images, folders, patterns (`photos/**/*.jpg`), or csv files with a column `path` or `file`.
        root: Folder that relative paths in csv files lie below; None: the csv file's own.

    Raises:
        UserError: Words that name nothing, and csv files that can't be read.
    """
    found, problems = list[ImageFile](), Problems()
    for word in words:
        with problems.collecting():
            files = list(_of_word(word, root))
            if not files:
                raise UserError(f"{word}: there are no images there")
            found += files
    problems.raise_if_any()
    return found


def _of_word(word: str, root: Path | None) -> Iterator[ImageFile]:
    """Yield the image files that one word names."""
    if os.path.isdir(word):
        yield from (ImageFile(path, str(path)) for path in _below(Path(word)))
    elif word.lower().endswith(".csv"):
        yield from _listed(Path(word), root)
    elif os.path.exists(word):
        yield ImageFile(Path(word), word)
    elif glob.has_magic(word):
        names = sorted(glob.glob(word, recursive=True))
        yield from (ImageFile(Path(name), name) for name in names if os.path.isfile(name))
    else:
        raise UserError(f"{word}: there is no such file or folder")


def _below(folder: Path) -> Iterator[Path]:
    """Yield the images below a folder, sorted, by the extensions that Pillow reads; hidden files are no images."""
    known = {extension for extension, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    for above, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in known:
                yield Path(above, name)


def _listed(path: Path, root: Path | None) -> Iterator[ImageFile]:
    """Yield the image files in the lines of a csv file; those that don't exist are found when they are read."""
    try:
        # utf-8-sig drops the mark that spreadsheets put first, which would become part of the first column's name.
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = csv.DictReader(file)
            column = next((name for name in _PATHS if name in (lines.fieldnames or ())), None)
            if column is None:
                raise UserError(f"{path} has neither a column 'path' nor 'file'")
            for line in lines:
                if name := line[column]:
                    yield ImageFile((root or path.parent) / name, name, line.get("label"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} can't be read: {error}") from error
