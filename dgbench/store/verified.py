"""Remember the runs with whole files, so that the next look need not read them again.

`verified.json` in a sweep's folder holds a digest for each of these runs: of the inode, size and dates of its files. A
run is believed only while the file server says the same of them, so a file that was written to, replaced or removed is
read and compared anew. What stays hidden is a disk that returns other bytes for a file that nobody wrote to. Whoever
reads the records, as `collect` does, still finds that, and then calls `forget`.

The file may be removed at any time, and of several processes that write it the last one wins: what it lacks is read.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import orjson

from dgbench.store.files import write_atomic

FILE = "verified.json"
"""Name of the file in the sweep's folder."""
_FORMAT = 1
"""Version of the file's format, and of what verified files were compared with."""
_STAT = struct.Struct("QQqqq")
_SETTLED = 2.0
"""Age in seconds from which on a date tells that a file has changed again: the clocks of file servers are coarse."""


def stamp_of(files: Iterable[str]) -> tuple[str, float]:
    """Return a digest of the inodes, sizes and dates of some files, and the date of the last change to any.

    Args:
        files: Their paths.

    Returns:
        The digest, empty if a file can't be looked at; the date in seconds since 1970.
    """
    parts, date = [], 0
    for path in files:
        try:
            found = os.stat(path)
        except OSError:
            return "", 0.0
        parts.append(_STAT.pack(found.st_mode, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns))
        date = max(date, found.st_ctime_ns)
    return hashlib.blake2b(b"".join(parts), digest_size=8).hexdigest(), date / 1e9


class Verified:
    """The verified runs of a sweep, as its folder remembers them, and those that are verified now."""

    def __init__(self, root: Path) -> None:
        """Read the memory of a sweep's folder; empty if it can't be read."""
        self._path = root / FILE
        self._stamps: dict[str, str] = {}
        self._changed = False
        with suppress(OSError, ValueError):
            data = orjson.loads(self._path.read_bytes())
            if isinstance(data, dict) and data.get("format") == _FORMAT and isinstance(data.get("runs"), dict):
                self._stamps = data["runs"]

    def holds(self, id: str, stamp: str) -> bool:
        """Return whether a run was verified while its files had this stamp, see `stamp_of`."""
        return bool(stamp) and self._stamps.get(id) == stamp

    def add(self, id: str, stamp: str, age: float) -> None:
        """Record that a run was verified, unless one of its files may change once more without another date.

        Args:
            id: The run.
            stamp: The digest of `stamp_of`, from before its files were read.
            age: Seconds since the last change to one of its files, by the file server's clock.
        """
        if stamp and age > _SETTLED:
            self._stamps[id] = stamp
            self._changed = True

    def save(self) -> None:
        """Write the verified runs to the folder, if there are new ones and it can be written to."""
        if self._changed:
            with suppress(OSError):
                write_atomic(self._path, orjson.dumps({"format": _FORMAT, "runs": self._stamps}))


def forget(root: Path) -> None:
    """Remove the memory of verified runs from the folder of a sweep, so that their files are read again."""
    with suppress(OSError):
        (root / FILE).unlink()
