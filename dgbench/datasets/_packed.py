"""Data sets that are made once, by `fetch`, and then lie in one file of arrays."""

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
    """Write the arrays, and a hash of all that they were made from."""
    from dgbench.store.files import write_atomic

    members: dict[str, Any] = {_MADE_FROM: np.array(made_from), **arrays}
    path = data_dir / folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, lambda stream: np.savez_compressed(stream, **members))


class Packed:
    """The arrays of the data set `name`; raises `UserError` if its file is not there, or from elsewhere, or damaged."""

    def __init__(self, name: str, data_dir: Path | None, folder: str, file: str = _IMAGES) -> None:
        if data_dir is None:
            raise UserError(f"{name} is read from {folder} under --data_dir, which is not given")
        self.path = data_dir / folder / file
        self.fetching = f"python -m dgbench.download {name} --data_dir {data_dir}"
        if not self.path.is_file():
            raise UserError(f"{name} is expected in {self.path}, which does not exist: fetch it by {self.fetching}")

    def read(self, member: str) -> NDArray[Any]:
        """One array; the others are not looked at."""
        try:
            with self.path.open("rb") as file, np.load(file) as arrays:
                found: NDArray[Any] = arrays[member]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise UserError(
                f"{self.path} is damaged ({error}): remove its folder, and fetch it by {self.fetching}"
            ) from error
        return found

    def check(self, made_from: str) -> None:
        """Refuse a file that was made from something else."""
        if self.read(_MADE_FROM).item() != made_from:
            raise UserError(
                f"{self.path} was made by another dgbench: remove its folder, and fetch it by {self.fetching}"
            )
