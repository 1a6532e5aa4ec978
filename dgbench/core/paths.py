"""Check paths as users type them."""

from __future__ import annotations

import os
from pathlib import Path

from dgbench.core.errors import UserError
from dgbench.core.wording import printable


def check_path(path: str | Path, what: str) -> None:
    """Raise UserError if no file can be at `path` (a name too long, a file in the way), or if it is not UTF-8.

    A missing file is no error, which is for the reader of the path to judge. Paths must be UTF-8 because a sweep's
    files are JSON and hold the paths that its runs need.

    Args:
        path: As typed.
        what: The flag, with which the message begins.

    Raises:
        UserError: The path is not UTF-8, or the system refuses to look it up.
    """
    try:
        for whole in (os.path.abspath(path), os.path.realpath(path)):
            # Python decodes a byte of a file name that is not UTF-8 as a lone surrogate in this range.
            if any("\udc80" <= char <= "\udcff" for char in whole):
                raise UserError(f"{what} {printable(whole)} is not UTF-8: rename the file or folder")
        os.lstat(path)
    except UserError:
        raise
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise UserError(f"{what} {path} can't be: {_existing(Path(path))} is a file") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{what} {path}: {getattr(error, 'strerror', None) or error}") from None


def check_folder(place: Path, what: str) -> None:
    """Raise UserError if `place` is neither a folder nor can be made one. An existing folder need not be writable.

    Args:
        place: As typed.
        what: The flag, with which the message begins.
    """
    check_path(place, what)
    existing = _existing(place)
    if not existing.is_dir():
        raise UserError(f"{what} {place} can't be a folder: it is a file")
    if existing != place.absolute() and not os.access(existing, os.W_OK):
        raise UserError(f"{what} {place} can't be made: {existing} can't be written to")


def _existing(path: Path) -> Path:
    """Return the path, or its nearest parent that exists."""
    path = path.absolute()
    return next(above for above in (path, *path.parents) if os.path.lexists(above))
