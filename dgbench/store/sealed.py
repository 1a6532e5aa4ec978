"""Write and read files that carry the sha256 of their content: after it, or in a safetensors header.

A rename protects against writes that were cut short, not against disks that return other bytes later, nor against edits
by hand. Checkpoints and weights decide results, so they are compared with their hash before they are used.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO, cast

import orjson

_SIZE = hashlib.sha256().digest_size
_BLOCK = 1 << 20
_SEAL = "sha256"
_LARGEST_HEADER = 100_000_000  # bytes, as safetensors has it
"""Limit of a safetensors header in bytes, which is that of its library."""


class CorruptFile(ValueError):
    """A file whose content is not the written one: a disk lost some of it, or it was changed."""


def sealed(write: Callable[[BinaryIO], object]) -> Callable[[BinaryIO], object]:
    """Wrap a writer so that the sha256 of everything it writes is appended to the file.

    Its format must mark where the content ends, so that readers ignore the 32 bytes after it.
    """

    def write_sealed(file: BinaryIO) -> None:
        hashing = _Hashing(file)
        write(cast(BinaryIO, hashing))
        file.write(hashing.hash.digest())

    return write_sealed


def check_seal(path: Path) -> None:
    """Read a sealed file once and compare its content with its hash.

    Raises:
        CorruptFile: They differ, or the file can't be read to its end.
    """
    hash, behind = hashlib.sha256(), b""
    with open(path, "rb") as file:
        try:
            # The seal is the last 32 bytes, and where the end is shows only at the end: the newest 32 bytes are always
            # held back from the hash.
            while block := file.read(_BLOCK):
                behind += block
                hash.update(behind[:-_SIZE])
                behind = behind[-_SIZE:]
        except OSError as error:
            raise CorruptFile(f"{path} can't be read ({error.strerror})") from error
    if behind != hash.digest():
        raise CorruptFile(f"{path} is not what was written")


def sealed_safetensors(content: bytes) -> bytes:
    """Return a safetensors file with the sha256 of its content added to its metadata.

    The format allows nothing after the tensors, so `sealed` can't be used for it. Metadata are sorted, because the
    library writes them in random order and equal models should give equal files.

    Args:
        content: A safetensors file.
    """
    file = io.BytesIO(content)
    header = _read_header(file)
    tensors = file.read()
    metadata = header.pop("__metadata__", {})
    metadata[_SEAL] = _digest(header, metadata, [tensors])
    text = orjson.dumps({"__metadata__": dict(sorted(metadata.items())), **header})
    text += b" " * (-len(text) % 8)  # tensors must begin at a multiple of 8 bytes, so that they can be memory-mapped
    return len(text).to_bytes(8, "little") + text + tensors


def check_safetensors(path: Path) -> bool:
    """Read a safetensors file once and compare its content with its hash.

    Returns:
        Whether it has a hash; files of earlier versions have none.

    Raises:
        CorruptFile: They differ, or the file can't be read to its end.
    """
    try:
        with open(path, "rb") as file:
            header = _read_header(file)
            metadata = header.pop("__metadata__", {})
            seal = metadata.pop(_SEAL, None)
            whole = seal is None or _digest(header, metadata, iter(lambda: file.read(_BLOCK), b"")) == seal
    except OSError as error:
        raise CorruptFile(f"{path} can't be read ({error.strerror})") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise CorruptFile(f"{path} is not what was written ({error})") from error
    if not whole:
        raise CorruptFile(f"{path} is not what was written")
    return seal is not None


def _read_header(file: BinaryIO) -> dict[str, Any]:
    """Read the header of a safetensors file: 8 bytes of length, then JSON."""
    size = int.from_bytes(file.read(8), "little")
    if size > _LARGEST_HEADER:
        raise ValueError("no header")
    header = orjson.loads(file.read(size))
    if not isinstance(header, dict):
        raise TypeError("no header")
    return header


def _digest(header: dict[str, Any], metadata: dict[str, str], tensors: Iterable[bytes]) -> str:
    """Return the hash of header, metadata and tensors, the JSON with sorted keys so that its order doesn't matter."""
    hash = hashlib.sha256(orjson.dumps([header, metadata], option=orjson.OPT_SORT_KEYS))
    for block in tensors:
        hash.update(block)
    return hash.hexdigest()


class _Hashing:
    """A file open for writing that hashes all that passes through it; only sequential writes are supported."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.hash = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.hash.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()
