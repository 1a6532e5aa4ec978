"""The records of a run: whole lines of JSON, which are believed if they are what the run finished with."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from dgbench.store.sealed import CorruptFile


def append(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Add records: all of them, or none and OSError. They are on the disk when this returns."""
    data = b"".join(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE) for record in records)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o644)
    try:
        size = os.fstat(file).st_size
        assert size == 0 or os.pread(file, 1, size - 1) == b"\n", "a torn line: truncate_records first"
        try:
            _write_all(file, data)
            os.fsync(file)
        except OSError:
            os.ftruncate(file, size)
            raise
    finally:
        os.close(file)


def truncate(path: Path, size: int, sha256: str = "") -> None:
    """Go back to the first `size` bytes; raise `CorruptFile` if there are fewer, or others than `sha256` says."""
    data = read_bytes(path)
    if len(data) < size:
        raise CorruptFile(f"{path} has {len(data)} bytes, the checkpoint has seen {size}")
    if sha256 and hashlib.sha256(data[:size]).hexdigest() != sha256:
        raise CorruptFile(f"{path} is not what the checkpoint has seen")
    if len(data) > size:
        file = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
        try:
            os.ftruncate(file, size)
        finally:
            os.close(file)


def read_bytes(path: Path) -> bytes:
    """Read the content as it is; nothing if there is no file."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def read_finished(path: Path, count: int, sha256: str) -> tuple[list[dict[str, Any]], int]:
    """Read the records that a run finished with.

    A process that lost the run while it was writing may have left torn lines among them, which are cut off.

    Args:
        path: The file.
        count: How many records there were.
        sha256: Of their lines.

    Returns:
        The records, and the number of lines that were cut off.

    Raises:
        CorruptFile: Without torn lines the file is not what it was, or it can't be read.
    """
    try:
        data = read_bytes(path)
    except OSError:
        data = b""
    lines = [line for line in data.split(b"\n") if line]
    torn = 0
    if hashlib.sha256(data).hexdigest() != sha256:
        whole = [line for line in lines if _is_record(line)]
        if hashlib.sha256(b"".join(line + b"\n" for line in whole)).hexdigest() != sha256:
            raise CorruptFile(f"{path.name} doesn't hold the {count} records that the run finished with")
        lines, torn = whole, len(lines) - len(whole)
    records: list[dict[str, Any]] = orjson.loads(b"[" + b",".join(lines) + b"]")
    return records, torn


def _write_all(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]


def _is_record(line: bytes) -> bool:
    try:
        return isinstance(orjson.loads(line), dict)
    except orjson.JSONDecodeError:
        return False
