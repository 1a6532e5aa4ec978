"""A client of a file server that caches attributes, names and listings for long, as clients of NFS do.

    python -m benchmarks.chaos.slow_cache SOURCE MOUNT SECONDS

It mounts SOURCE at MOUNT through FUSE until it is unmounted. Attributes of files, names (missing ones too) and listings
may be SECONDS old, except for what this mount itself changes. It is stricter than NFS, which asks for attributes anew
whenever a file is opened. It needs `mfusepy`, the library of FUSE, /dev/fuse and the right to mount.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from typing import Any

fuse: Any = importlib.import_module("mfusepy")  # which no other part needs, and which has no types

_ATTRIBUTES = ["st_mode", "st_size", "st_uid", "st_gid", "st_nlink", "st_ino"]
_DATES = ["st_mtime", "st_ctime", "st_atime"]

_NOW = (1 << 30) - 1
"""The date that stands for the present, UTIME_NOW."""


class Client(fuse.Operations):  # type: ignore[misc]
    """A pass-through to a folder, with old listings; the kernel keeps attributes and names."""

    use_ns = True

    def __init__(self, source: str, seconds: float) -> None:
        self.source, self.seconds = source, seconds
        self.listings: dict[str, tuple[float, list[str]]] = {}

    def _at(self, path: str) -> str:
        return self.source + path

    def _changed(self, *paths: str) -> None:
        """Forget the listings of the folders of these paths."""
        for path in paths:
            self.listings.pop(os.path.dirname(path), None)

    def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
        found = os.lstat(self._at(path))
        return {name: getattr(found, name) for name in _ATTRIBUTES} | {n: getattr(found, f"{n}_ns") for n in _DATES}

    def readdir(self, path: str, fh: int) -> list[str]:
        date, names = self.listings.get(path, (-self.seconds, []))
        if time.monotonic() - date > self.seconds:
            names = os.listdir(self._at(path))
            self.listings[path] = time.monotonic(), names
        return [".", "..", *names]

    def open(self, path: str, flags: int) -> int:
        return os.open(self._at(path), flags)

    def create(self, path: str, mode: int, fi: Any = None) -> int:
        self._changed(path)
        return os.open(self._at(path), os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return os.pread(fh, size, offset)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        return os.pwrite(fh, data, offset)  # which appends to a file that is open for that

    def truncate(self, path: str, length: int, fh: int | None = None) -> None:
        os.truncate(self._at(path), length)

    def fsync(self, path: str, datasync: int, fh: int) -> None:
        os.fsync(fh)

    def release(self, path: str, fh: int) -> None:
        os.close(fh)

    def mkdir(self, path: str, mode: int) -> None:
        self._changed(path)
        os.mkdir(self._at(path), mode)

    def rmdir(self, path: str) -> None:
        self._changed(path)
        os.rmdir(self._at(path))

    def unlink(self, path: str) -> None:
        self._changed(path)
        os.unlink(self._at(path))

    def rename(self, old: str, new: str) -> None:
        self._changed(old, new)
        os.rename(self._at(old), self._at(new))

    def link(self, target: str, source: str) -> None:
        self._changed(target)
        os.link(self._at(source), self._at(target))

    def symlink(self, target: str, source: str) -> None:
        self._changed(target)
        os.symlink(source, self._at(target))

    def readlink(self, path: str) -> str:
        return os.readlink(self._at(path))

    def chmod(self, path: str, mode: int) -> None:
        os.chmod(self._at(path), mode)

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> None:
        if times is None or _NOW in times:
            os.utime(self._at(path))  # the date is the server's
        else:
            os.utime(self._at(path), ns=times)

    def statfs(self, path: str) -> dict[str, int]:
        found = os.statvfs(self._at(path))
        return {name: getattr(found, name) for name in ("f_bavail", "f_bfree", "f_blocks", "f_bsize", "f_frsize")}


def main(source: str, mount: str, seconds: str) -> None:
    """Serve until it is unmounted."""
    age = float(seconds)
    ages = {"attr_timeout": age, "entry_timeout": age, "negative_timeout": age}
    fuse.FUSE(Client(source, age), mount, foreground=True, nothreads=True, **ages)


if __name__ == "__main__":
    main(*sys.argv[1:])
