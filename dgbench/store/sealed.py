"""Write and read files that carry the sha256 of their content, behind it or in their header."""

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


class CorruptFile(ValueError):
    """A file is not what was written: a disk lost some of it, or somebody changed it."""


def sealed(write: Callable[[BinaryIO], object]) -> Callable[[BinaryIO], object]:
    """What writes a file's content, made to write its seal behind it. The content must end where it says itself."""

    def write_sealed(file: BinaryIO) -> None:
        hashing = _Hashing(file)
        write(cast(BinaryIO, hashing))
        file.write(hashing.hash.digest())

    return write_sealed


def check_seal(path: Path) -> None:
    """Read a sealed file once; raises `CorruptFile` if it isn't what was written, or can't be read to its end."""
    hash, behind = hashlib.sha256(), b""
    with open(path, "rb") as file:
        try:
            while block := file.read(_BLOCK):
                behind += block
                hash.update(behind[:-_SIZE])
                behind = behind[-_SIZE:]
        except OSError as error:
            raise CorruptFile(f"{path} can't be read ({error.strerror})") from error
    if behind != hash.digest():
        raise CorruptFile(f"{path} is not what was written")


def sealed_safetensors(content: bytes) -> bytes:
    """Add to a safetensors file, as a writer made it, the sha256 of all that it says, as an entry of its metadata.

    Nothing may stand behind the tensors of such a file, so that `sealed` doesn't do. Metadata is sorted: its writer's
    order is random.
    """
    file = io.BytesIO(content)
    header = _read_header(file)
    tensors = file.read()
    metadata = header.pop("__metadata__", {})
    metadata[_SEAL] = _digest(header, metadata, [tensors])
    text = orjson.dumps({"__metadata__": dict(sorted(metadata.items())), **header})
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8 bytes
    return len(text).to_bytes(8, "little") + text + tensors


def check_safetensors(path: Path) -> bool:
    """Read a safetensors file once.

    Returns:
        Whether it carries a seal; those of earlier versions don't.

    Raises:
        CorruptFile: It isn't what was written, or can't be read to its end.
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
    size = int.from_bytes(file.read(8), "little")
    if size > _LARGEST_HEADER:
        raise ValueError("no header")
    header = orjson.loads(file.read(size))
    if not isinstance(header, dict):
        raise TypeError("no header")
    return header


def _digest(header: dict[str, Any], metadata: dict[str, str], tensors: Iterable[bytes]) -> str:
    hash = hashlib.sha256(orjson.dumps([header, metadata], option=orjson.OPT_SORT_KEYS))
    for block in tensors:
        hash.update(block)
    return hash.hexdigest()


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
