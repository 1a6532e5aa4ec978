"""Paths as users type them."""

from __future__ import annotations

import os
from pathlib import Path

from dgbench.core.errors import UserError
from dgbench.core.wording import printable


def check_path(path: str | Path, what: str) -> None:
    """Refuse a path at which no file can be (a name too long, a file in the way), or that is no UTF-8.

    A sweep's files name the paths that it needs, and are JSON.

    Args:
        path: As typed. That there is nothing is for its reader to judge.
        what: The flag, to begin the message.

    Raises:
        UserError: The path is no UTF-8, or the system says that no such path can be looked at, and why.
    """
    try:
        for whole in (os.path.abspath(path), os.path.realpath(path)):
            if any("\udc80" <= char <= "\udcff" for char in whole):  # as Python reads bytes that are no UTF-8
                raise UserError(f"{what} {printable(whole)} is no UTF-8: rename what is called so")
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
    """Refuse a folder that is not there and can't be made; an existing one need not be writable."""
    check_path(place, what)
    existing = _existing(place)
    if not existing.is_dir():
        raise UserError(f"{what} {place} can't be a folder: it is a file")
    if existing != place.absolute() and not os.access(existing, os.W_OK):
        raise UserError(f"{what} {place} can't be made: {existing} can't be written to")


def _existing(path: Path) -> Path:
    """Return the path, or the nearest above it that exists."""
    path = path.absolute()
    return next(above for above in (path, *path.parents) if os.path.lexists(above))
