"""Files that are whole or as before: written beside, then renamed."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from dgbench.core.errors import UserError


def write_atomic(path: Path, content: bytes | Callable[[BinaryIO], object]) -> None:
    """Write `content` (bytes, or a function that writes to a file) to `path`: all of it, or as before.

    Raises OSError (disk full, read-only, ...) with `path` untouched.
    """
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
        if isinstance(error, OSError) and error.filename is None:  # as of a write to a full disk
            error.filename = str(path)
        raise


def write_json(path: Path, data: object) -> None:
    """`write_atomic` of readable JSON."""
    write_atomic(path, orjson.dumps(data, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def read_sweep_json(root: Path, name: str, version: int) -> dict[str, Any]:
    """A JSON file of a sweep's folder; raises `UserError` if it isn't there, or of another format."""
    try:
        data: dict[str, Any] = orjson.loads((root / name).read_bytes())
    except FileNotFoundError:
        raise UserError(f"{root} holds no sweep: there is no {name} in it") from None
    if data["format"] != version:
        raise UserError(f"{root / name} has format {data['format']}, this version reads {version}")
    return data


def refuse_links(*folders: Path) -> None:
    """Raise `UserError` if one of these folders, in which something is to be removed, is a link to another place."""
    for folder in folders:
        if folder.is_symlink():
            raise UserError(f"{folder} is a link, and nothing is removed through one: do it in {folder.resolve()}")
