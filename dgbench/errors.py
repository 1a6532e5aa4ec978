"""Wrong input, told in the user's words: every problem at once, before any work starts."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
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
    dgbench.errors.UserError: --steps must be at least 1, not 0
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


def with_article(noun: str) -> str:
    """`a float`, `an int`."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def unknown(what: str, name: str, options: Iterable[str]) -> str:
    """The message for a name that nobody has heard of, with the nearest that exists."""
    options = sorted(options)
    by_lower = {option.lower(): option for option in options}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    if near:
        return f"unknown {what} {name!r}: did you mean {by_lower[near[0]]!r}?"
    return f"unknown {what} {name!r}: there are {', '.join(options) or 'none'}"
