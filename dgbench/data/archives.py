"""Unpack the archives that data sets are published as, and move their data to where they are read.

Archives are not trusted: one can write nothing outside the folder that it is unpacked to, no links or devices, no file
twice, and no more bytes than its limit.
"""

from __future__ import annotations

import errno
import lzma
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from dgbench.core.data_cards import Archive
from dgbench.core.errors import Problems, UserError
from dgbench.core.progress import ReportProgress
from dgbench.core.wording import printable
from dgbench.data.downloads import Unreachable, download_file, hash_of

_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
_RATIO = 100  # images and annotations never compress so far, decompression bombs do
_CHUNK = 1 << 20
_SHOWN = 60  # characters of a name that is too long
_DAMAGED = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError),
    *(EOFError, NotImplementedError, RuntimeError),
)
"""Errors by which zipfile, tarfile and their decompressors report content that they can't read."""
_DEPTH = 4  # folders that an archive may wrap around the data
_ASIDE = "__MACOSX"  # folder that macOS packs beside the data


def unpack_archives(
    archives: Sequence[Archive], data_dir: Path, sources: Sequence[Path], progress: ReportProgress
) -> Path:
    """Unpack `sources`, or `archives` if there are none, to the folder `data_dir/unpacked`.

    Of the sources, folders are copied (by hard links, on the same disk), archives are unpacked, and other files are
    copied.

    Args:
        archives: The published ones; each is downloaded to `data_dir/downloads` if there are no sources.
        data_dir: Everything is written below it.
        sources: Files and folders of the user's.
        progress: Called with bytes that have been downloaded, hashed and unpacked.

    Returns:
        The folder.

    Raises:
        UserError: Sources are missing, or have a published archive's name but not its hash, all of them in one message;
            or `extract` refuses one.
        Unreachable: The archives can only be had with a browser, or a host fails.
    """
    folder = data_dir / "unpacked"
    published = {archive.name: archive for archive in archives}
    if sources:
        _check_sources(published, sources, progress)
    elif by_hand := [archive.name for archive in archives if not archive.url]:
        raise Unreachable(f"no program can fetch {', '.join(by_hand)}: get it with a browser")
    elif not archives:
        raise Unreachable("dgbench doesn't fetch it: get it yourself")
    else:
        sources = [download_file(a.url, data_dir / "downloads" / a.name, progress, md5=a.md5) for a in archives]
    for file in sources:
        archive = published.get(file.name, Archive(file.name))
        into = folder / archive.into
        into.mkdir(parents=True, exist_ok=True)
        if file.is_dir():
            shutil.copytree(file, into, ignore=_links_upward, copy_function=link_or_copy, dirs_exist_ok=True)
        elif file.name.lower().endswith(_SUFFIXES):
            extract(file, into, progress, limit=archive.size)
        else:
            shutil.copyfile(file, into / file.name)
    return folder


def _check_sources(published: Mapping[str, Archive], sources: Sequence[Path], progress: ReportProgress) -> None:
    """Raise `UserError` with all sources that are missing, or have an archive's published name and another hash."""
    problems = Problems()
    for source in sources:
        expected = published[source.name].md5 if source.name in published else ""
        if not source.exists():
            problems.add(f"--from {source}: there is no such file or folder")
        elif expected and source.is_file() and (md5 := hash_of(source, progress)) != expected:
            problems.add(
                f"{source} is not the published {source.name}: its MD5 is {md5}, not {expected}; get it again, or if "
                "you packed it yourself give it another name: names and counts are checked anyway"
            )
    problems.raise_if_any()


def extract(archive: Path, folder: Path, progress: ReportProgress, *, limit: int = 0) -> None:
    """Unpack a zip or tar file into `folder`.

    Args:
        archive: The file; recognized by its content, not by its name.
        folder: Made if it doesn't exist; otherwise added to.
        progress: Called with the bytes written so far.
        limit: Most bytes to write; 0: 100 times the archive's own size.

    Raises:
        UserError: A member would be outside the folder, is a link or a device, or comes twice (with its name); or the
            archive exceeds the limit, is damaged, or is another kind of file.
    """
    limit = limit or _RATIO * archive.stat().st_size
    done = 0
    try:
        for name, content in _members(archive):
            target = _target(archive, folder, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as file:  # x: a second member of the same name is an error
                while chunk := content.read(_CHUNK):
                    done += len(chunk)
                    if done > limit:
                        raise UserError(f"{archive} unpacks to more than {limit:,} bytes: that is no data set")
                    file.write(chunk)
            progress(f"bytes of {archive.name} unpacked", done, 0)
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise UserError(f"{archive} holds two files of the same name, {error.filename}") from error
    except _DAMAGED as error:
        raise _damaged(archive, error) from error
    except OSError as error:
        # gzip and bz2 raise a bare OSError for content that they can't read; real ones have a number.
        if error.errno is None:
            raise _damaged(archive, error) from error
        if error.errno not in (errno.ENAMETOOLONG, errno.EILSEQ):
            raise
        name = printable(os.path.relpath(error.filename, folder))
        raise UserError(
            f"{archive} holds {name[:_SHOWN]!r}..., a name that this disk can't hold ({error.strerror}): unpack it "
            "elsewhere, rename that, and give the folder"
        ) from error


def _damaged(archive: Path, error: Exception) -> UserError:
    """Word the error of an archive that can't be read."""
    return UserError(f"{archive} can't be unpacked ({error}): it is damaged or not an archive, get it again")


def _members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield (name, open file) of an archive's files; each file is open until the next is yielded.

    The filter "data" of `tarfile` (PEP 706) is not enough: it accepts links that stay inside the folder, and strips the
    slash of an absolute path instead of refusing it.
    """
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            for member in opened.infolist():
                kind = stat.S_IFMT(member.external_attr >> 16)
                _check_kind(archive, member.filename, kind in (0, stat.S_IFREG, stat.S_IFDIR))
                if not member.is_dir() and not member.filename.startswith(_ASIDE):
                    with opened.open(member) as file:
                        yield member.filename, file
    elif archive.stat().st_size and tarfile.is_tarfile(archive):
        with tarfile.open(archive) as tar:
            for entry in tar:
                _check_kind(archive, entry.name, entry.isfile() or entry.isdir())
                content = tar.extractfile(entry)
                if content is not None and not entry.name.startswith(_ASIDE):
                    with content:
                        yield entry.name, content
            # A compressed tar ends in a checksum of everything, which is compared only once it is read: so read on past
            # the last file.
            while tar.fileobj and tar.fileobj.read(_CHUNK):
                pass
    else:
        raise UserError(f"{archive} is neither a zip nor a tar file: {_begin_of(archive)}")


def _check_kind(archive: Path, name: str, ordinary: bool) -> None:
    """Raise `UserError` for a member that is neither a file nor a folder."""
    if not ordinary:
        raise UserError(f"{archive} holds a link or a device, {name!r}: that is no data set")


def _target(archive: Path, folder: Path, name: str) -> Path:
    """Return the path of a member below `folder`; raise `UserError` if it would be outside."""
    parts = name.split("/")
    # Backslashes and drive letters are separators on Windows, and a name with them is no data set's anywhere.
    if name.startswith("/") or ".." in parts or "\\" in name or "\0" in name or ":" in parts[0]:
        raise UserError(f"{archive} holds {name!r}, which would lie outside its folder: that is no data set")
    return folder.joinpath(*parts)


def _begin_of(file: Path) -> str:
    """Describe the beginning of a file that is no archive."""
    with file.open("rb") as opened:
        begin = opened.read(64)
    # zipfile knows a zip file by the index at its end, which a download that was cut short lacks.
    if begin.startswith(b"PK\x03\x04"):
        return "it begins as a zip file and was cut short, get it again"
    return "it is empty" if not begin else f"it begins with {begin[:24]!r}"


def _links_upward(place: str, names: Sequence[str]) -> list[str]:
    """List the names in a folder that are links to that folder or one above it; `shutil.copytree` leaves them out.

    Followed, such a link would copy the tree into itself without end.
    """
    above = {os.path.realpath(folder) for folder in (Path(place), *Path(place).parents)}
    above |= {str(folder) for real in above for folder in Path(real).parents}
    paths = {name: os.path.join(place, name) for name in names}
    return [name for name, path in paths.items() if os.path.islink(path) and os.path.realpath(path) in above]


def link_or_copy(source: str | Path, target: str | Path) -> str | Path:
    """Make a hard link, so that a copy of a data set takes no space; where that fails, copy the content.

    Returns:
        `target`, as `shutil.copytree` expects.
    """
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copyfile(source, target)
    return target


def move_folder_of(names: Sequence[str], place: Path, target: Path) -> None:
    """Move the one folder below `place` that holds a folder for each name to `target`.

    Args:
        names: The domains.
        place: Searched with the folders in it, down to `_DEPTH`.
        target: A new path; folders above it are made.

    Raises:
        UserError: Several folders hold all names; or none does, with the names missing from the best.
    """
    layer, best = [place], list[str]()
    for _ in range(_DEPTH):
        holding = [folder for folder in layer if all((folder / name).is_dir() for name in names)]
        if len(holding) > 1:
            found = ", ".join(str(folder.relative_to(place)) for folder in holding)
            raise UserError(f"several folders hold the domains {', '.join(names)}: {found}; give the one to use")
        if holding:
            target.parent.mkdir(parents=True, exist_ok=True)
            holding[0].rename(target)
            return
        best = max([best, *([n for n in names if (folder / n).is_dir()] for folder in layer)], key=len)
        layer = [child for folder in layer for child in sorted(folder.iterdir()) if child.is_dir()][:1000]
    missing = [name for name in names if name not in best]
    raise UserError(f"no folder given holds the domains {', '.join(names)}: missing {', '.join(missing)}")
