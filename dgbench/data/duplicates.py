"""Remove the files that a published list names as duplicates, and no others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from dgbench.core.errors import Problems, UserError

_MOST = 5  # problems of one kind that a message names


def read_list(path: Path, expected: Mapping[str, int]) -> list[PurePosixPath]:
    """Read the paths of a list, one a line, relative to the data set's folder: domain/class/file.

    Args:
        path: The list.
        expected: Domain -> number of its files that the published list names.

    Raises:
        UserError: Lines are no such paths, or a domain has another number of files.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} can't be read: {error}") from error
    listed = [PurePosixPath(line) for line in dict.fromkeys(lines) if line]
    problems = Problems()
    wrong = [file for file in listed if file.is_absolute() or ".." in file.parts or len(file.parts) < 3]
    for file in wrong[:_MOST]:
        problems.add(f"{path} lists {str(file)!r}, which is not domain/class/file")
    found = Counter(file.parts[0] for file in listed if file not in wrong)
    if not wrong and found != Counter(expected):
        said = ", ".join(f"{domain} {found[domain]:,}" for domain in sorted(found))
        problems.add(
            f"{path} is not the published list: it has {said or 'nothing'}; expected "
            + ", ".join(f"{domain} {n:,}" for domain, n in expected.items() if n)
        )
    problems.raise_if_any()
    return listed


def remove(folder: Path, path: Path, expected: Mapping[str, int]) -> tuple[int, int]:
    """Delete the files in `folder` that the list at `path` names; files already gone are no error.

    Interrupted, it can be called again.

    Args:
        folder: The data set's.
        path: The published list.
        expected: Domain -> number of its files that the list must name.

    Returns:
        How many files the list names, and how many of them existed.

    Raises:
        UserError: The list is wrong, or files are behind links out of `folder`; nothing was deleted.
    """
    listed, there = read_list(path, expected), 0
    problems, inside = Problems(), folder.resolve()
    for parent in dict.fromkeys(relative.parent for relative in listed):
        if not (folder / parent).resolve().is_relative_to(inside):
            problems.add(
                f"{folder / parent} is a link to {(folder / parent).resolve()}: nothing is removed through one"
            )
    problems.raise_if_any()
    for relative in listed:
        file = folder / relative
        if file.is_file() or file.is_symlink():
            file.unlink()
            there += 1
    return len(listed), there
