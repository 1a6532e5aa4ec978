"""Files that know whether they are what was written: behind their content stands its sha256."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, cast

_SIZE = hashlib.sha256().digest_size
_BLOCK = 1 << 20


class Garbled(ValueError):
    """A file is not what was written: a disk lost some of it, or somebody changed it."""


def sealed(write: Callable[[BinaryIO], object]) -> Callable[[BinaryIO], object]:
    """What writes a file's content, made to write its seal behind it. The content must end where it says itself."""

    def write_sealed(file: BinaryIO) -> None:
        hashing = _Hashing(file)
        write(cast(BinaryIO, hashing))
        file.write(hashing.hash.digest())

    return write_sealed


def check_seal(path: Path) -> None:
    """Read a sealed file once; raises `Garbled` if it isn't what was written, or can't be read to its end."""
    hash, behind = hashlib.sha256(), b""
    with open(path, "rb") as file:
        try:
            while block := file.read(_BLOCK):
                behind += block
                hash.update(behind[:-_SIZE])
                behind = behind[-_SIZE:]
        except OSError as error:
            raise Garbled(f"{path} can't be read ({error.strerror})") from error
    if behind != hash.digest():
        raise Garbled(f"{path} is not what was written")


class _Hashing:
    """A file, as far as what writes from its first byte to its last needs one."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.hash = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.hash.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()
