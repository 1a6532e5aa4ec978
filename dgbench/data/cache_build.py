"""Build a cache of images: decoded by Pillow in several threads, written block by block, by one process at a time.

The process that builds holds a lease of the cache's folder, as runs do, and all others wait. If it is killed, the next
one continues after the last block that is complete: a block's sizes are written once its pixels are on the disk. The
content of every file depends on the images alone, so that a process which lost its lease unawares writes the same bytes
to the same places, and does no harm.
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
"""Images that are decoded, written and checked together."""
# More threads bring nothing: Pillow decodes without the interpreter's lock, but Python's share of the work needs it.
_THREADS = 16
_JPEG_QUALITY, _JPEG_BYTES = 95, 36_000
"""Pillow's quality, and the bytes to expect of a JPEG: those of a photograph of 256 x 320, a high estimate."""
_WAIT = 1.0
"""Seconds between two looks at a cache that another process builds."""
_SHOWN = 20
"""Problems that one message lists."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
_UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ELOOP)

EncodedImage = tuple[int, int, bytes]
"""Width and height of the original, and the image's bytes in `pixels`."""


def build(cache: ImageCache) -> None:
    """Build a cache, or wait while another process does.

    Raises:
        UserError: An image can't be decoded, or the folder is full or can't be written to.
        Stopped: A signal asked this process to stop; the next one continues from the blocks that are written.
    """
    try:
        cache.folder.mkdir(parents=True, exist_ok=True)
        # So that the first wait is reported at once, and later ones every `INTERVAL` seconds.
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
        # While this process gave no sign of life, another took over: wait for it, or take over in turn.
        build(cache)
    except OSError as error:
        _refuse(cache, error)


def discard(folder: Path, name: str, why: str) -> None:
    """Remove a damaged cache, so that it is built again; do nothing if another process removes or builds it.

    Processes that read it keep what they have mapped: its files only lose their names.

    Args:
        folder: The cache's.
        name: Name of the data set, for the message.
        why: The damage, for the message.
    """
    lease = claim(folder, None, folder / "cancel")
    if lease:
        print_line(f"{name}: {why}: it is decoded again")
        # The index first: without it the other files count as unfinished, whenever this process is killed.
        for file in (INDEX, SIZES, SUMS, PIXELS):
            remove_path(folder / file)
        lease.release()


def planned(cache: ImageCache, paths: Sequence[Path]) -> CacheIndex:
    """Decide how the images will be kept, with an estimate of their bytes.

    Args:
        cache: The cache to build.
        paths: All of its image files.
    """

    def index(height: int, width: int) -> CacheIndex:
        size = len(paths) * height * width * 3
        return CacheIndex(cache.name, len(paths), "bytes", height, width, size, cache.interpolation, BLOCK)

    # 256 for inputs of 224: the usual ratio of an image to the crop that is taken from it.
    side = max(256, ceil(max(cache.height, cache.width) * 8 / 7))
    first = cache.decode.size(paths[0])
    if first and max(first) <= side:
        # Sizes are read from the files' headers, and only as long as all are equal.
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
        path: The file; its own bytes are kept if it is a JPEG small enough.
        image: The image decoded from it, RGB.
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
    # 4:4:4 keeps color at full resolution; the default would halve it.
    small.save(file, "JPEG", quality=_JPEG_QUALITY, subsampling="4:4:4")
    return *image.size, file.getvalue()


def _as_it_is(path: Path, image: Image.Image) -> bytes:
    """Return the content of a JPEG file from which OpenCV reads exactly this image; empty for any other file."""
    content = path.read_bytes()
    if not content.startswith(JPEG_BEGINS):
        return b""
    found = from_jpeg(np.frombuffer(content, np.uint8))
    return content if found is not None and np.array_equal(found, np.asarray(image)) else b""


def _build(cache: ImageCache, lease: Lease) -> None:
    """Write the blocks that are missing, and then the index."""
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
        """Open the files, which are made if they don't exist, and cut off all behind the last whole block."""
        self._pixels, self._sizes, self._sums = (
            # Not in append mode: each block has its place. Not through links: a file that a link names would be
            # overwritten.
            os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
            for name in (PIXELS, SIZES, SUMS)
        )
        sizes = read_sizes(folder)
        # A power cut may leave zeros at the end of a file whose length was written before its content.
        count = int(np.cumprod(sizes[:, 2] > 0).sum())
        count = min(count // BLOCK, os.fstat(self._sums).st_size // SUM) * BLOCK
        self.count = count
        """Images that are written, in whole blocks."""
        self.size = int(sizes[: self.count, 2].sum(dtype=np.int64))
        """Bytes that they take in `pixels`."""
        if self.size > os.fstat(self._pixels).st_size:  # pixels were synced before sizes: the disk is at fault
            self.count = self.size = 0
        self._cut()

    def append(self, entries: Sequence[EncodedImage]) -> None:
        """Write a block: its pixels and their checksum are on the disk before its sizes count it."""
        content = b"".join(pixels for _, _, pixels in entries)
        _write(self._pixels, self.size, content)
        sizes = size_bytes([(width, height, len(pixels)) for width, height, pixels in entries])
        _write(self._sums, self.count // BLOCK * SUM, checksum(content, sizes))
        _write(self._sizes, self.count * SIZES_OF_ONE, sizes)
        self.count += len(entries)
        self.size += len(content)

    def clear(self) -> None:
        """Remove everything, as none of it can be used."""
        self.count = self.size = 0
        self._cut()

    def _cut(self) -> None:
        """Shorten the files to the blocks that count."""
        os.ftruncate(self._sizes, self.count * SIZES_OF_ONE)
        os.ftruncate(self._sums, -(-self.count // BLOCK) * SUM)
        os.ftruncate(self._pixels, self.size)

    def close(self) -> None:
        """Close the files."""
        for file in (self._pixels, self._sizes, self._sums):
            os.close(file)


def _write(file: int, place: int, content: bytes) -> None:
    """Write bytes at a place of a file, and wait until they are on the disk."""
    left = memoryview(content)
    while left:
        done = os.pwrite(file, left, place)
        left, place = left[done:], place + done
    os.fsync(file)


def _blocks(
    cache: ImageCache, paths: Sequence[Path], index: CacheIndex
) -> Iterator[tuple[list[EncodedImage], list[str]]]:
    """Yield, block by block, the encoded images, and the problems of images that can't be decoded."""
    threads = min(_THREADS, usable_cores())
    blocks = (paths[start : start + BLOCK] for start in range(0, len(paths), BLOCK))
    with ThreadPoolExecutor(threads) as pool:
        # Lazy: a block is submitted when the deque takes it, so that few decoded blocks wait in memory.
        results = (pool.submit(_block, cache, block, index) for block in blocks)
        ahead = deque(islice(results, threads + 1))
        try:
            while ahead:
                yield ahead.popleft().result()
                ahead.extend(islice(results, 1))
        finally:
            pool.shutdown(cancel_futures=True)


def _block(cache: ImageCache, paths: Sequence[Path], index: CacheIndex) -> tuple[list[EncodedImage], list[str]]:
    """Decode and encode one block, in a thread."""
    entries, problems = list[EncodedImage](), Problems()
    for path in paths:
        with problems.collecting():
            entries.append(kept(path, cache.decode(path), index))
    return entries, problems.found


def _refuse(cache: ImageCache, error: OSError) -> NoReturn:
    """Raise `UserError` for a full or read-only disk, with the ways out; otherwise the error as it came."""
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
