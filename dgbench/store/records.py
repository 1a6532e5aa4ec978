"""Append the records of a run, one line of JSON each, and read back those that the run finished with."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from dgbench.store.files import read_whole
from dgbench.store.sealed import CorruptFile


def append(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Append all records and sync them to disk, or raise OSError and append none."""
    # O_APPEND: a process that lost its lease may still write, and must not overwrite lines of its successor.
    # O_NOFOLLOW: a link in place of the file would lead the write to a place outside the sweep.
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
    """Cut the file back to its first `size` bytes.

    Args:
        path: The records.
        size: In bytes.
        sha256: Hash that these bytes must have; empty: don't compare.

    Raises:
        CorruptFile: There are fewer bytes, or the hash differs.
    """
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


def read_bytes(path: str | Path) -> bytes:
    """Return the content of a file; empty if there is none."""
    try:
        return read_whole(path)
    except FileNotFoundError:
        return b""


def read_finished(path: str, count: int, sha256: str) -> tuple[list[bytes], int]:
    """Read the records that a run finished with, for `parse`.

    A process that lost its lease while writing may have left torn lines among them, which are cut off.

    Args:
        path: The records.
        count: Their number, for the message.
        sha256: Hash of their lines.

    Returns:
        A line for each record, and the number of torn lines that were cut off.

    Raises:
        CorruptFile: The file can't be read, or even without torn lines its hash differs.
    """
    try:
        data = read_bytes(path)
    except OSError:
        data = b""
    lines = [line for line in data.split(b"\n") if line]
    torn = 0
    # The hash of the whole file settles nearly every case. If it differs, only lines that parse are kept: they must
    # then give the very hash that `done` holds, so a torn line is forgiven and a changed or missing record is not.
    if hashlib.sha256(data).hexdigest() != sha256:
        whole = [line for line in lines if _is_record(line)]
        if hashlib.sha256(b"".join(line + b"\n" for line in whole)).hexdigest() != sha256:
            raise CorruptFile(f"{os.path.basename(path)} doesn't hold the {count} records that the run finished with")
        lines, torn = whole, len(lines) - len(whole)
    return lines, torn


def parse(lines: Sequence[bytes]) -> list[dict[str, Any]]:
    """Parse lines that hold a record each."""
    records: list[dict[str, Any]] = orjson.loads(b"[" + b",".join(lines) + b"]")
    return records


def _write_all(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]


def _is_record(line: bytes) -> bool:
    try:
        return isinstance(orjson.loads(line), dict)
    except orjson.JSONDecodeError:
        return False
