"""Data sets that `download` makes once from other files, and that then lie in one `.npz` file of arrays.

The file holds a hash of everything it was made from (packages, items, version of the recipe), so that a file made by
another version of dgbench is refused and never mixed with results of this one.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dgbench.core.errors import UserError

_IMAGES = "images.npz"
_MADE_FROM = "made_from"


def write_packed(
    data_dir: Path, folder: str, made_from: str, arrays: Mapping[str, NDArray[Any]], file: str = _IMAGES
) -> None:
    """Write arrays into the one file of a packed data set, together with a hash of their origin.

    Args:
        data_dir: The folder that holds the data sets.
        folder: The data set's folder below it; made if it doesn't exist.
        made_from: Hash of everything that the arrays were made from.
        arrays: Name -> array, as `Packed.read` finds it.
        file: Name of the file.
    """
    from dgbench.store.files import write_atomic

    members: dict[str, Any] = {_MADE_FROM: np.array(made_from), **arrays}
    path = data_dir / folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, lambda stream: np.savez_compressed(stream, **members))


class Packed:
    """The file of arrays of one packed data set; a data set makes it when it is opened."""

    def __init__(self, name: str, data_dir: Path | None, folder: str, file: str = _IMAGES) -> None:
        """Find the file; no array is read.

        Args:
            name: The data set, for messages.
            data_dir: The folder that holds the data sets; None: the user gave none.
            folder: The data set's folder below it.
            file: Name of the file.

        Raises:
            UserError: No data directory was given, or the file doesn't exist.
        """
        if data_dir is None:
            raise UserError(f"{name} is read from {folder} under --data_dir, which is not given")
        self.path = data_dir / folder / file
        self.fetching = f"python -m dgbench.download {name} --data_dir {data_dir}"
        if not self.path.is_file():
            raise UserError(f"{name} is expected in {self.path}, which does not exist: fetch it by {self.fetching}")

    def read(self, member: str) -> NDArray[Any]:
        """Return one array, without reading the others; raise UserError if the file is damaged."""
        try:
            with self.path.open("rb") as file, np.load(file) as arrays:
                found: NDArray[Any] = arrays[member]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise UserError(
                f"{self.path} is damaged ({error}): remove its folder, and fetch it by {self.fetching}"
            ) from error
        return found

    def check(self, made_from: str) -> None:
        """Raise UserError if the file was made from something else than `made_from`, or is damaged."""
        if self.read(_MADE_FROM).item() != made_from:
            raise UserError(
                f"{self.path} was made by another dgbench: remove its folder, and fetch it by {self.fetching}"
            )
