"""Download a file by HTTP: resumed where it broke off, checked by its hash, at its path only when it is whole."""

from __future__ import annotations

import errno
import hashlib
import http.client
import os
import time
import urllib.error
import urllib.request
from pathlib import Path

from dgbench.core.errors import UserError
from dgbench.core.progress import ReportProgress

TIMEOUT = 60.0
"""Seconds without a byte after which a host counts as gone."""

_CHUNK = 1 << 20
_ATTEMPTS = 3  # requests in a row without a new byte, after which to give up
_PAUSE = 2.0  # seconds between two requests
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
_FINAL = (400, 401, 403, 404, 405, 410, 451)  # status codes that another request won't change


class Unreachable(UserError):
    """The network or a host failed; the user may find the same data elsewhere."""


class _Broken(Exception):
    """A connection that ended early; its bytes are kept, and the rest is requested again."""


def download_file(url: str, target: Path, progress: ReportProgress, *, md5: str = "", timeout: float = TIMEOUT) -> Path:
    """Download `url` to the file `target`, unless that exists and has the hash.

    The bytes of an unfinished file are kept beside it as `.part`, and a later call requests only the rest, if the host
    still has the same file.

    Args:
        url: An http or https address.
        target: Folders above it are made.
        progress: Called with bytes that have been downloaded, then with those that are hashed.
        md5: The published hash, hexadecimal. Empty if none is published: then an existing file is left alone.
        timeout: Seconds without a byte after which the host counts as gone.

    Returns:
        `target`.

    Raises:
        Unreachable: With the URL: the host is gone, answers with an error or a web page, ends early again and again,
            sends nothing for `timeout` seconds, or has a file with another hash.
        OSError: The disk is full or can't be written to.
    """
    if not url.startswith(("http://", "https://")):
        raise UserError(f"{url} is not an address that HTTP can get")
    if target.is_file() and (not md5 or hash_of(target, progress) == md5):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = _PartialFile(target)
    try:
        _request_until_whole(url, part, progress, timeout)
        if md5 and (found := hash_of(part.path, progress)) != md5:
            part.remove()
            raise Unreachable(f"{url} has another file than was published: its MD5 is {found}, not {md5}")
        with part.path.open("rb+") as file:
            os.fsync(file.fileno())
        part.path.replace(target)
    finally:
        if not part.size:
            part.remove()
    return target


def hash_of(path: Path, progress: ReportProgress) -> str:
    """Return the MD5 of a file in hexadecimal; the publishers of data sets give no stronger hash."""
    digest, size = hashlib.md5(usedforsecurity=False), path.stat().st_size
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            progress(f"bytes of {path.name.removesuffix('.part')} checked", file.tell(), size)
    return digest.hexdigest()


class _PartialFile:
    """The bytes of an unfinished download, and the tag by which the host names the content that they are of."""

    def __init__(self, target: Path) -> None:
        self.path = target.with_name(f"{target.name}.part")
        self.tag_path = target.with_name(f"{target.name}.tag")

    @property
    def size(self) -> int:
        """Return the number of bytes to keep: 0 without a tag, as it is then unknown which content they belong to."""
        return self.path.stat().st_size if self.path.is_file() and self.tag else 0

    @property
    def tag(self) -> str:
        """Return the ETag or the date of the last change that the host sent; empty if it sent neither."""
        return self.tag_path.read_text() if self.tag_path.is_file() else ""

    def remove(self) -> None:
        """Remove bytes and tag, so that the next request is for the whole file."""
        self.path.unlink(missing_ok=True)
        self.tag_path.unlink(missing_ok=True)


def _request_until_whole(url: str, part: _PartialFile, progress: ReportProgress, timeout: float) -> None:
    """Request the missing bytes until none is missing; give up after `_ATTEMPTS` requests in a row without any."""
    failures, had = 0, part.size
    while True:
        try:
            return _request_rest(url, part, progress, timeout)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416:  # more bytes are kept than the file has: it has changed
                part.remove()
            reason = f"{error.code} {error.reason}"
            if error.code in _FINAL:
                raise Unreachable(f"{url} can't be fetched: {reason}") from error
        except (OSError, http.client.HTTPException, _Broken) as error:
            if isinstance(error, OSError) and error.errno in _DISK:
                raise
            cause = error.reason if isinstance(error, urllib.error.URLError) else error
            reason = str(cause) or type(cause).__name__
            if isinstance(cause, TimeoutError):
                reason = f"the host sent nothing for {timeout:g} seconds"
        failures = failures + 1 if part.size <= had else 1
        had = part.size
        if failures == _ATTEMPTS:
            kept = f"; {had:,} bytes have come and are kept, run the same command again for the rest" if had else ""
            raise Unreachable(f"{url} can't be fetched: {reason}{kept}")
        time.sleep(_PAUSE)


def _request_rest(url: str, part: _PartialFile, progress: ReportProgress, timeout: float) -> None:
    """Send one request for the missing bytes; raise `_Broken` if fewer come than were announced."""
    begin = part.size
    # Not compressed on the way: ranges, lengths and hashes are of the file itself.
    headers = {"User-Agent": "dgbench", "Accept-Encoding": "identity"}
    if begin:
        # If-Range has the host send the whole file (status 200, not 206) where its content has another tag by now.
        headers |= {"Range": f"bytes={begin}-", "If-Range": part.tag}
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout) as response:
        if response.headers.get_content_type() == "text/html":
            raise Unreachable(f"{url} answers with a web page, not with the file: open it in a browser")
        if response.status != 206:
            begin = 0
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {begin}-"):
            part.remove()
            raise _Broken("the host sends another part of the file than was requested")
        if begin == 0:
            part.remove()
            tag = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
            if tag and not tag.startswith("W/"):  # a weak tag does not vouch for bytes
                part.tag_path.write_text(tag)
        length = response.headers.get("Content-Length")
        total = begin + int(length) if length else 0
        with part.path.open("ab") as file:
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                progress(f"bytes of {part.path.stem} fetched", file.tell(), total)
            done = file.tell()
    if total and done != total:
        raise _Broken(f"the host ended the connection after {done:,} of {total:,} bytes")
