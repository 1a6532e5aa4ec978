"""Define streams: in which order and in which batches adapters are shown their inputs, and where they begin anew."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from dgbench.core.errors import Problems, UserError
from dgbench.core.wording import shorten, unknown_name

ORDERS = {
    "shuffled": "a random order",
    "by_class": "one class after the other, in the order of the classes (label shift)",
}
"""Value of `order` -> the order of the inputs of a domain, or of mixed domains."""
DOMAINS = {
    "separate": "each view begins anew",
    "continual": "one view after the other, without beginning anew",
    "mixed": "the inputs of all views in one order",
}
"""Value of `domains` -> how the views of one role (`Fold.test`, for example) follow each other."""
_OPTIONS: Mapping[str, Mapping[str, str]] = {"order": ORDERS, "domains": DOMAINS}


@dataclass(frozen=True)
class Stream:
    """The way in which adapters are shown their inputs, written `batch_size=1 order=by_class domains=continual`."""

    batch_size: int = 0
    """Inputs in a batch; 0: the adapter's own number, 32 unless its class has another."""
    order: str = "shuffled"
    """A key of `ORDERS`."""
    domains: str = "separate"
    """A key of `DOMAINS`."""

    @staticmethod
    def parse(text: str) -> Stream:
        """Read a stream from its text, in which words may be left out and stand in any order.

        Raises:
            UserError: Words are unknown or given twice, or values are wrong; all problems are listed.
        """
        problems, found = Problems(), dict[str, Any]()
        for word in text.split():
            name, equals, value = word.partition("=")
            if name in found:
                problems.add(f"stream gives {name} twice")
            elif not equals:
                problems.add(f"stream: write NAME=VALUE, not {shorten(word, 100)!r}")
            elif name == "batch_size":
                if not (value.isascii() and value.isdigit() and 1 <= int(value[:19]) < 2**31):
                    problems.add(f"stream: batch_size is a number of inputs, at least 1, not {shorten(value, 100)!r}")
                found[name] = int(value[:19]) if value.isascii() and value.isdigit() else 0
            elif name in _OPTIONS:
                if value not in _OPTIONS[name]:
                    problems.add(unknown_name(f"{name} of a stream", value, _OPTIONS[name]))
                found[name] = value
            else:
                problems.add(unknown_name("word of a stream", name, ("batch_size", *_OPTIONS)))
        problems.raise_if_any()
        return replace(Stream(), **found)

    def __str__(self) -> str:
        words = (f"batch_size={self.batch_size}" if self.batch_size else "", f"order={self.order}")
        return " ".join(filter(None, (*words, f"domains={self.domains}")))


def canonical(text: str) -> str:
    """Return the one text of a stream, whatever order its words came in; the empty text stays empty.

    Raises:
        UserError: The text is no stream.
    """
    return str(Stream.parse(text)) if text.strip() else ""


def stream_problems(text: str) -> Iterator[str]:
    """Yield everything that is wrong with the text of a stream."""
    try:
        Stream.parse(text)
    except UserError as error:
        yield from error.problems
