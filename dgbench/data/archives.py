"""Unpacks what data sets are published as, and puts it where they are read.

An archive can write nothing outside the folder that it is unpacked to, no links, and no more than its bound.
"""

from __future__ import annotations

import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from dgbench.core.cards import Archive
from dgbench.core.errors import Problems, UserError
from dgbench.core.progress import ReportProgress
from dgbench.data.fetch import Unreachable, get, hash_of

_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
_RATIO = 100  # to which images and annotations are not packed, and bombs are
_CHUNK = 1 << 20
_DEPTH = 4  # of folders in which an archive may wrap the data
_ASIDE = "__MACOSX"  # what macOS packs beside the data


class _Member(NamedTuple):
    """A file in an archive."""

    name: str
    size: int
    file: IO[bytes]


def unpacked(archives: Sequence[Archive], data_dir: Path, sources: Sequence[Path], progress: ReportProgress) -> Path:
    """The folder `data_dir/unpacked` with the content of `sources`, or of `archives` if there are none.

    Of the sources, folders are copied (linked, on the same disk), archives are unpacked and other files are copied.
    One that has an archive's published name must have its published hash.
    """
    folder = data_dir / "unpacked"
    if sources:
        _check_sources(archives, sources, progress)
        files = list(sources)
    else:
        by_hand = [archive.name for archive in archives if not archive.url]
        if by_hand:
            raise Unreachable(f"no program can fetch {', '.join(by_hand)}: get it with a browser")
        if not archives:
            raise Unreachable("dgbench doesn't fetch it: get it yourself")
        downloads = data_dir / "downloads"
        files = [get(a.url, downloads / a.name, progress, md5=a.md5) for a in archives]
    published = {archive.name: archive for archive in archives}
    for file in files:
        archive = published.get(file.name, Archive(file.name))
        into = folder / archive.into
        into.mkdir(parents=True, exist_ok=True)
        if file.is_dir():
            shutil.copytree(file, into, copy_function=link_or_copy, dirs_exist_ok=True)
        elif file.name.lower().endswith(_SUFFIXES):
            extract(file, into, progress, limit=archive.size)
        else:
            shutil.copyfile(file, into / file.name)
    return folder


def _check_sources(archives: Sequence[Archive], sources: Sequence[Path], progress: ReportProgress) -> None:
    problems = Problems()
    hashes = {archive.name: archive.md5 for archive in archives if archive.md5}
    for source in sources:
        if not source.exists():
            problems.add(f"--from {source}: there is no such file or folder")
        elif source.is_file() and source.name in hashes and (md5 := hash_of(source, progress)) != hashes[source.name]:
            problems.add(
                f"{source} is not the published {source.name}: its MD5 is {md5}, not {hashes[source.name]}; get it "
                "again, or if you packed it yourself give it another name: names and counts are checked all the same"
            )
    problems.raise_if_any()


def extract(archive: Path, folder: Path, progress: ReportProgress, *, limit: int = 0) -> None:
    """Unpack a zip or tar file into `folder`, of at most `limit` bytes (0: 100 times its own size).

    Raises `UserError` naming a member that would lie outside the folder, is a link or a device, or is there twice; an
    archive that holds more than the limit or than the disk; and one that is damaged or something else.
    """
    size = archive.stat().st_size
    limit = limit or _RATIO * size
    done = 0
    try:
        for member in _members(archive):
            target = _target(archive, folder, member.name)
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as file:
                while chunk := member.file.read(_CHUNK):
                    done += len(chunk)
                    if done > limit:
                        raise UserError(f"{archive} unpacks to more than {limit:,} bytes: that is no data set")
                    file.write(chunk)
            progress(f"bytes of {archive.name} unpacked", done, 0)
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise UserError(f"{archive} holds two files of the same name, {error.filename}") from error
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise UserError(
            f"{archive} can't be unpacked ({error}): it is damaged or not an archive, get it again"
        ) from error


def _members(archive: Path) -> Iterator[_Member]:
    """The files of an archive, one after another; each is open until the next is asked for."""
    if zipfile.is_zipfile(archive):
        yield from _zip_members(archive)
    elif archive.stat().st_size and tarfile.is_tarfile(archive):
        yield from _tar_members(archive)
    else:
        raise UserError(f"{archive} is neither a zip nor a tar file: {_begin_of(archive)}")


def _zip_members(archive: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise UserError(f"{archive} holds a link or a device, {info.filename!r}: that is no data set")
            if not info.is_dir() and not info.filename.startswith(_ASIDE):
                with opened.open(info) as file:
                    yield _Member(info.filename, info.file_size, file)


def _tar_members(archive: Path) -> Iterator[_Member]:
    with tarfile.open(archive) as opened:
        for info in opened:
            if not info.isfile() and not info.isdir():
                raise UserError(f"{archive} holds a link or a device, {info.name!r}: that is no data set")
            file = opened.extractfile(info)
            if file is not None and not info.name.startswith(_ASIDE):
                with file:
                    yield _Member(info.name, info.size, file)


def _target(archive: Path, folder: Path, name: str) -> Path:
    """Where a member belongs; refuses one that would lie elsewhere."""
    parts = name.split("/")
    if name.startswith("/") or ".." in parts or "\\" in name or "\0" in name or ":" in parts[0]:
        raise UserError(f"{archive} holds {name!r}, which would lie outside its folder: that is no data set")
    return folder.joinpath(*parts)


def _begin_of(file: Path) -> str:
    with file.open("rb") as opened:
        begin = opened.read(64)
    if begin.startswith(b"PK\x03\x04"):  # the index, by which a zip file is known, stands at its end
        return "it begins as a zip file and was cut short, get it again"
    return "it is empty" if not begin else f"it begins with {begin[:24]!r}"


def link_or_copy(source: str | Path, target: str | Path) -> str | Path:
    """A hard link, so that a copy of a data set takes no room; where that can't be, a copy."""
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copyfile(source, target)
    return target


def move_folder_of(names: Sequence[str], place: Path, target: Path) -> None:
    """Move the one folder in `place` that holds a folder for each of the names to `target`, which is new."""
    layer, best = [place], list[str]()
    for _ in range(_DEPTH):
        holding = [folder for folder in layer if all((folder / name).is_dir() for name in names)]
        if len(holding) > 1:
            found = ", ".join(str(folder.relative_to(place)) for folder in holding)
            raise UserError(f"several folders hold the domains {', '.join(names)}: {found}; give the one that counts")
        if holding:
            target.parent.mkdir(parents=True, exist_ok=True)
            holding[0].rename(target)
            return
        best = max([best, *([n for n in names if (folder / n).is_dir()] for folder in layer)], key=len)
        layer = [child for folder in layer for child in sorted(folder.iterdir()) if child.is_dir()][:1000]
    missing = [name for name in names if name not in best]
    raise UserError(f"no folder in what was given holds the domains {', '.join(names)}: {', '.join(missing)} lack")
