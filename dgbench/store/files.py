"""Write files that are either whole or as before, and read JSON whose damage is reported by name."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from dgbench.core.errors import UserError
from dgbench.store.sealed import CorruptFile

_CHUNK = 1 << 16
"""Bytes read at once: more than most files of a run hold, and less than Python asks the system for separately."""


class DamagedSweep(UserError):
    """A file of a sweep's folder is damaged; the message names it and the command that mends it."""


def write_atomic(path: Path, content: bytes | Callable[[BinaryIO], object]) -> None:
    """Write `content` to `path` so that, whatever happens, the file is either complete or as it was before.

    Args:
        path: The file to make or replace.
        content: Bytes, or a function that writes to an open file.

    Raises:
        OSError: The disk is full, read-only, ...; `path` is untouched.
    """
    # In the same folder, because a rename is atomic only within a file system; under a random name, because two
    # processes may write the same path. The content is synced before the rename: a file system may otherwise write the
    # new name to disk first, and a power failure would leave an empty file under it. The folder is not synced: if the
    # rename is lost, the old file is still whole.
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(beside, "xb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException as error:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # a failed write or sync names no file
            error.filename = str(path)
        raise


def absent_folders(folder: Path) -> list[Path]:
    """Return those of a folder and the folders above it that don't exist, the innermost first."""
    return [place for place in (folder, *folder.parents) if not place.exists()]


def write_json(path: Path, data: object) -> None:
    """Write `data` to `path` as indented JSON, by `write_atomic`."""
    write_atomic(path, orjson.dumps(data, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def read_whole(path: str | Path) -> bytes:
    """Read a file without the layers of `Path.read_bytes`, which take longer than a small file: tables read very many.

    Raises:
        OSError: It can't be read.
    """
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = [os.read(file, _CHUNK)]
        while parts[-1]:
            parts.append(os.read(file, _CHUNK))
        return b"".join(parts)
    finally:
        os.close(file)


def read_object(path: str | Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        FileNotFoundError: There is no such file.
        CorruptFile: The file can't be read or holds something else; the message names it and the damage.
    """
    try:
        content = read_whole(path)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from None
    except OSError as error:
        raise CorruptFile(f"{path} is damaged: it can't be read ({error.strerror})") from error
    with making_sense_of(path):
        data = orjson.loads(content)
        if not isinstance(data, dict):
            raise TypeError("it holds no object")
    return data


def check_files(folder: Path, names: Container[str]) -> None:
    """Raise CorruptFile if something else than a file has one of these names in a folder."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name in names and not entry.is_file():
                raise CorruptFile(f"{entry.path} is damaged: it is not a file")


class MakingSense:
    """A block that interprets the content of a file; `making_sense_of` makes it."""

    # A class, since a context manager of a generator takes as long as a small file to read: tables read very many.
    __slots__ = ("_path",)

    def __init__(self, path: str | Path) -> None:
        """Make the block for the file at `path`."""
        self._path = path

    def __enter__(self) -> None:
        """Begin the block."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Raise CorruptFile in place of an error that wrong data cause."""
        if error is None or isinstance(error, (UserError, CorruptFile)):
            return
        if isinstance(error, (ValueError, TypeError, KeyError, IndexError, AttributeError)):  # all that they can cause
            missing = "it lacks " if isinstance(error, KeyError) else ""
            raise CorruptFile(f"{self._path} is damaged: {missing}{error}") from error


def making_sense_of(path: str | Path) -> MakingSense:
    """Raise CorruptFile with the file's name if the block fails on the file's content."""
    return MakingSense(path)


@contextmanager
def reading_sweep_json(root: Path, name: str, version: int, mend: str) -> Iterator[dict[str, Any]]:
    """Read a JSON file of a sweep's folder and yield its fields without `format`, for a block that interprets them.

    Args:
        root: The sweep's folder.
        name: The file's name.
        version: The format that is read.
        mend: How to mend the sweep if the file is damaged, for the message.

    Raises:
        DamagedSweep: The file is damaged, or the block can't interpret it.
        UserError: There is no such file, or it has another format.
    """
    try:
        data = read_object(root / name)
        with making_sense_of(root / name):
            found = data.pop("format")
            if type(found) is not int:
                raise TypeError(f"format is {found!r}")
            if found != version:
                raise UserError(f"{root / name} has format {found}, this version reads {version}")
            yield data
    except FileNotFoundError:
        raise UserError(f"{root} holds no sweep: there is no {name} in it") from None
    except CorruptFile as error:
        raise DamagedSweep(f"{error}: {mend}") from error


def model_path(folder: Path, predictor: str, which: str) -> Path:
    """Return the path of a predictor's weights in a run's folder; the file exists only if they were kept.

    Args:
        folder: The run's folder.
        predictor: `run.MODEL`, or the name of an average.
        which: `run.BEST` or `run.LAST`.
    """
    return folder / "models" / f"{predictor}.{which}.safetensors"


def refuse_links(*folders: Path) -> None:
    """Raise UserError if one of these folders, from which something will be removed, is a link to another place."""
    for folder in folders:
        if folder.is_symlink():
            raise UserError(f"{folder} is a link, and nothing is removed through one: do it in {folder.resolve()}")


def remove_path(path: Path) -> None:
    """Remove a file, a folder with its content, or a link but not its target."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
