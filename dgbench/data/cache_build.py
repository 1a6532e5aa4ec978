"""Build a cache of images: decoded by Pillow in several threads, written block by block, by one process at a time.

The process that builds holds a lease of the cache's folder, as runs do; all others wait. If it is killed, the next one
goes on behind the last block whose sizes were written, which they are once its pixels are on the disk. What is written
where depends on the images alone, so that even a process that lost its lease without knowing does no harm.
"""

from __future__ import annotations

import errno
import io
import os
import shutil
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from itertools import islice
from math import ceil
from pathlib import Path
from typing import NoReturn

import numpy as np
from PIL import Image

from dgbench.core.errors import Problems, UserError
from dgbench.core.machine import usable_cores
from dgbench.core.progress import INTERVAL, print_line, shown_progress
from dgbench.core.wording import format_duration
from dgbench.data.cache_format import (
    INDEX,
    LARGEST,
    LARGEST_OWN,
    PIXELS,
    SIZES,
    SIZES_OF_ONE,
    SUM,
    SUMS,
    CacheIndex,
    ImageCache,
    checksum,
    read_sizes,
    size_bytes,
)
from dgbench.data.decoding import JPEG_BEGINS
from dgbench.data.transforms_cv2 import from_jpeg
from dgbench.data.transforms_pil import resize
from dgbench.store.files import remove_path, write_json
from dgbench.store.lease import Lease, LeaseLost, Stopped, StopSignals, claim

BLOCK = 64
"""Images that are decoded and written together."""
_THREADS = 16  # Pillow works without holding the interpreter, but Python's own share bounds what more of them bring
_JPEG_QUALITY, _JPEG_BYTES = 95, 36_000
"""The bytes are those of a photograph of 256 x 320, more than an image mostly takes."""
_WAIT = 1.0
_SHOWN = 20
_FULL = (errno.ENOSPC, errno.EDQUOT)
_UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ELOOP)

EncodedImage = tuple[int, int, bytes]
"""Width and height of an original, and what is kept of it."""


def build(cache: ImageCache) -> None:
    """Build a cache, or wait while another process does; raise as `open_images` does."""
    try:
        cache.folder.mkdir(parents=True, exist_ok=True)
        printed = -INTERVAL
        while CacheIndex.read(cache.folder) is None:
            with StopSignals() as stops:
                lease = claim(cache.folder, cache.folder / INDEX, cache.folder / "cancel", stops=stops)
                if lease:
                    with lease:
                        _build(cache, lease)
                    continue
            if time.monotonic() - printed >= INTERVAL:
                printed = time.monotonic()
                print_line(f"{cache.name}: waiting for another process that decodes its images into {cache.folder}")
            time.sleep(_WAIT)
    except LeaseLost:
        build(cache)
    except OSError as error:
        _refuse(cache, error)


def discard(folder: Path, name: str, why: str) -> None:
    """Remove a damaged cache, so that it is built again; do nothing if another process does so, or builds it.

    Processes that read it go on with what they have mapped: its files lose their names only.
    """
    lease = claim(folder, None, folder / "cancel")
    if lease:
        print_line(f"{name}: {why}: it is decoded again")
        for file in (INDEX, SIZES, SUMS, PIXELS):  # first what says that the rest is whole
            remove_path(folder / file)
        lease.release()


def planned(cache: ImageCache, paths: Sequence[Path]) -> CacheIndex:
    """Decide how the images are kept, with an estimate of the bytes that they take."""

    def index(height: int, width: int) -> CacheIndex:
        size = len(paths) * height * width * 3
        return CacheIndex(cache.name, len(paths), "bytes", height, width, size, cache.interpolation, BLOCK)

    side = max(256, ceil(max(cache.height, cache.width) * 8 / 7))
    first = cache.decode.size(paths[0])
    if first and max(first) <= side:
        own = index(first[1], first[0])
        if own.size <= LARGEST_OWN and all(cache.decode.size(path) == first for path in paths):
            return own
    squashed = index(cache.height, cache.width)
    if squashed.size <= LARGEST:
        return squashed
    return replace(squashed, kind="jpeg", height=side, width=side, size=len(paths) * _JPEG_BYTES * side**2 // 256**2)


def kept(path: Path, image: Image.Image, index: CacheIndex) -> EncodedImage:
    """Encode the decoded image of a file as the cache keeps it.

    Args:
        path: The file, whose own bytes are kept if it is a small enough JPEG.
        image: What it has been decoded to.
        index: How the images are kept.
    """
    if index.kind == "bytes":
        if image.size == (index.width, index.height):
            return *image.size, image.tobytes()
        return *image.size, resize(image, index.height, index.width, index.interpolation).tobytes()
    scale = min(1.0, index.height / min(image.size))
    width, height = (max(1, round(side * scale)) for side in image.size)
    if scale == 1 and (content := _as_it_is(path, image)):
        return *image.size, content
    small = image if scale == 1 else image.resize((width, height), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=_JPEG_QUALITY, subsampling="4:4:4")
    return *image.size, file.getvalue()


def _as_it_is(path: Path, image: Image.Image) -> bytes:
    """Return the content of a file that is a JPEG from which OpenCV reads just this image; else nothing."""
    content = path.read_bytes()
    if not content.startswith(JPEG_BEGINS):
        return b""
    found = from_jpeg(np.frombuffer(content, np.uint8))
    return content if found is not None and np.array_equal(found, np.asarray(image)) else b""


def _build(cache: ImageCache, lease: Lease) -> None:
    """Write what is missing, the index last."""
    paths = cache.paths()
    index = planned(cache, paths)
    with closing(_Files(cache.folder)) as files:
        free, needed = shutil.disk_usage(cache.folder).free, index.size - files.size
        if needed > free:
            room = f"{cache.place} has {free / 1e9:,.1f} GB free and needs {needed / 1e9:,.1f} GB"
            raise UserError(f"{room}, {_ways_out(cache)}")
        problems: list[str] = []
        begun = done = files.count
        started = time.monotonic()
        print_line(f"{cache.name}: decoding {len(paths) - begun:,} of {len(paths):,} images, once, into {cache.folder}")
        with shown_progress(f"{cache.name}: ") as report:
            report("images decoded", done, len(paths))
            for entries, wrong in _blocks(cache, paths[begun:], index):
                if lease.stop_requested:
                    raise Stopped
                problems += wrong
                if not problems:
                    lease.confirm()
                    files.append(entries)
                done += len(entries) + len(wrong)
                report("images decoded", done, len(paths))
        print_line(f"{cache.name}: decoded {done - begun:,} images in {format_duration(time.monotonic() - started)}")
        if problems:
            files.clear()
            more = [f"and {len(problems) - _SHOWN:,} more"] if len(problems) > _SHOWN else []
            raise UserError(*problems[:_SHOWN], *more)
        lease.confirm()
        write_json(cache.folder / INDEX, replace(index, size=files.size).to_json())


class _Files:
    """The growing files of an unfinished cache, open for writing."""

    def __init__(self, folder: Path) -> None:
        """Open the files, or make them."""
        self._pixels, self._sizes, self._sums = (
            # Not to append: each block has its place. Not through links: what is there is cut off, or overwritten.
            os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
            for name in (PIXELS, SIZES, SUMS)
        )
        sizes = read_sizes(folder)
        count = int(np.cumprod(sizes[:, 2] > 0).sum())  # what a power cut left behind may be zeros
        count = min(count // BLOCK, os.fstat(self._sums).st_size // SUM) * BLOCK
        self.count = count
        """Images that are written, in whole blocks."""
        self.size = int(sizes[: self.count, 2].sum(dtype=np.int64))
        """Bytes that they take."""
        if self.size > os.fstat(self._pixels).st_size:  # not by a process that was killed
            self.count = self.size = 0
        self._cut()

    def append(self, entries: Sequence[EncodedImage]) -> None:
        """Write a block: on the disk, with its checksum, before its sizes say so."""
        content = b"".join(pixels for _, _, pixels in entries)
        _write(self._pixels, self.size, content)
        sizes = size_bytes([(width, height, len(pixels)) for width, height, pixels in entries])
        _write(self._sums, self.count // BLOCK * SUM, checksum(content, sizes))
        _write(self._sizes, self.count * SIZES_OF_ONE, sizes)
        self.count += len(entries)
        self.size += len(content)

    def clear(self) -> None:
        """Remove everything: none of it can be used."""
        self.count = self.size = 0
        self._cut()

    def _cut(self) -> None:
        os.ftruncate(self._sizes, self.count * SIZES_OF_ONE)
        os.ftruncate(self._sums, -(-self.count // BLOCK) * SUM)
        os.ftruncate(self._pixels, self.size)

    def close(self) -> None:
        """Close them."""
        for file in (self._pixels, self._sizes, self._sums):
            os.close(file)


def _write(file: int, place: int, content: bytes) -> None:
    left = memoryview(content)
    while left:
        done = os.pwrite(file, left, place)
        left, place = left[done:], place + done
    os.fsync(file)


def _blocks(
    cache: ImageCache, paths: Sequence[Path], index: CacheIndex
) -> Iterator[tuple[list[EncodedImage], list[str]]]:
    """Yield, block after block, the images as they are kept, and the problems of those that can't be decoded."""
    threads = min(_THREADS, usable_cores())
    blocks = (paths[start : start + BLOCK] for start in range(0, len(paths), BLOCK))
    with ThreadPoolExecutor(threads) as pool:
        results = (pool.submit(_block, cache, block, index) for block in blocks)  # each is begun when it is asked for
        ahead = deque(islice(results, threads + 1))
        try:
            while ahead:
                yield ahead.popleft().result()
                ahead.extend(islice(results, 1))
        finally:
            pool.shutdown(cancel_futures=True)


def _block(cache: ImageCache, paths: Sequence[Path], index: CacheIndex) -> tuple[list[EncodedImage], list[str]]:
    entries, problems = list[EncodedImage](), Problems()
    for path in paths:
        with problems.collecting():
            entries.append(kept(path, cache.decode(path), index))
    return entries, problems.found


def _refuse(cache: ImageCache, error: OSError) -> NoReturn:
    if error.errno in _FULL:
        raise UserError(f"the disk of {cache.place} is full, {_ways_out(cache)}") from error
    if error.errno in _UNWRITABLE:
        raise UserError(f"{cache.place} can't be written to ({error.strerror}), {_ways_out(cache)}") from error
    raise error


def _ways_out(cache: ImageCache) -> str:
    return (
        f"and the decoded images of {cache.name} are kept there: name another folder with --cache_dir, or have them "
        "decoded in every step with --cache off"
    )
