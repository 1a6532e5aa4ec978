"""Wrong input, told in the user's words: every problem at once, before any work starts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class UserError(ValueError):
    """One or more things wrong with what the user asked for; commands print them and exit with code 2."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Problems:
    """Collects problems so that all of them are told in one message.

    >>> problems = Problems()
    >>> problems.add("--steps must be at least 1, not 0")
    >>> problems.raise_if_any()
    Traceback (most recent call last):
    dgbench.core.errors.UserError: --steps must be at least 1, not 0
    """

    def __init__(self) -> None:
        self.found: list[str] = []

    def add(self, problem: str) -> None:
        """Note a problem; a problem noted twice is told once."""
        if problem not in self.found:
            self.found.append(problem)

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Note every problem of a `UserError` raised inside, and go on behind."""
        try:
            yield
        except UserError as error:
            for problem in error.problems:
                self.add(problem)

    def raise_if_any(self) -> None:
        """Raise one `UserError` with everything noted."""
        if self.found:
            raise UserError(*self.found)
