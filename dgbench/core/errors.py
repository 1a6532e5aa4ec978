"""Report wrong input: all problems in one `UserError`, in the user's words, before any work starts."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

UNWRITABLE = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.ESTALE,
)
"""Error numbers of a disk that can't be used: full, read-only, forbidden, broken or gone."""


class UserError(ValueError):
    """One or more problems with the user's input. Commands print them and exit with code 2.

    Args:
        *problems: A message each, on one line, without a final period.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Problems:
    """A list of problems that is raised as one `UserError`, so that a user can mend all of them at once.

    >>> problems = Problems()
    >>> problems.add("--steps must be at least 1, not 0")
    >>> problems.raise_if_any()
    Traceback (most recent call last):
    dgbench.core.errors.UserError: --steps must be at least 1, not 0
    """

    def __init__(self) -> None:
        self.found: list[str] = []

    def add(self, problem: str) -> None:
        """Add a problem unless it was added before."""
        if problem not in self.found:
            self.found.append(problem)

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Add the problems of a `UserError` raised in the block, and continue after the block."""
        try:
            yield
        except UserError as error:
            for problem in error.problems:
                self.add(problem)

    def raise_if_any(self) -> None:
        """Raise one `UserError` with all problems added so far, if there are any."""
        if self.found:
            raise UserError(*self.found)
