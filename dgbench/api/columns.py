"""Find the input, the label and the domain of each example of a data set of PyTorch or Hugging Face."""

from __future__ import annotations

import math
import numbers
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from dgbench.core.errors import UserError
from dgbench.core.wording import count_nouns, shorten, unknown_name, with_article

Column = str | int | Sequence[Any] | Callable[[Any], Any]
"""How a part of an example is found: key of a dict, position in a tuple, a value for each example, or a function."""


@dataclass(frozen=True)
class Source:
    """One data set of those that were given, as a map from positions to examples."""

    examples: Any
    """The data set, with a length, read by `[position]`."""
    domain: str | None = None
    """The domain of all its examples; None: the examples tell."""

    def names(self, column: Column | None) -> Sequence[str]:
        """Return the names of the numbers in a column of classes; empty if it has none, or isn't of the data set."""
        if isinstance(column, str):
            features = getattr(self.examples, "features", None)
            feature = features.get(column) if isinstance(features, Mapping) else None
            return tuple(getattr(feature, "names", None) or ())
        # torchvision's data sets of images name their classes so.
        classes = getattr(self.examples, "classes", None) if column == 1 else None
        return tuple(map(str, classes)) if isinstance(classes, list | tuple) else ()


def sources_of(dataset: Any) -> list[Source]:
    """Return the data sets of an argument, which is one, or several by name; raise UserError if they can't be used."""
    named = isinstance(dataset, Mapping)
    found = [Source(item, str(name)) for name, item in dataset.items()] if named else [Source(dataset)]
    for source in found:
        which = f"data set {source.domain!r}" if named else "the data set"
        if not hasattr(source.examples, "__len__") or not hasattr(source.examples, "__getitem__"):
            kind = type(source.examples).__name__
            raise UserError(f"{which}, {with_article(kind)}, can't be read by position: it needs a length and [index]")
        if not len(source.examples):
            raise UserError(f"{which} has no examples")
    if not found:
        raise UserError("there is no data set in the dict")
    return found


def label_column(source: Source, example: Any, given: Column | None, domains: Column | None) -> Column:
    """Return the column of labels: the one that was given, or the obvious one; raise UserError if none is.

    Obvious are the second part of a tuple, the one column of a Hugging Face data set with class names, and `label`.
    """
    if given is not None:
        return given
    if isinstance(example, tuple | list) and len(example) > 1 and domains != 1:
        return 1
    columns = [key for key in example if key != domains] if isinstance(example, Mapping) else []
    named = [key for key in columns if source.names(key)]
    obvious = named if len(named) == 1 else [key for key in columns if key == "label"]
    if not obvious:
        raise UserError(f"name the class of an example by labels=, {forms(example)}")
    return str(obvious[0])


def input_column(example: Any, given: Column | None, others: Sequence[Column | None]) -> Column:
    """Return the column of inputs: the one that was given, or the one that may be an input; raise UserError if none is.

    Args:
        example: The first example.
        given: As the user gave it; None: to be found.
        others: The columns of labels and domains.
    """
    if given is not None:
        return given
    if isinstance(example, tuple | list):
        return 0
    if not isinstance(example, Mapping):
        return lambda whole: whole
    candidates = [key for key, value in example.items() if key not in others and _may_be_input(value)]
    if len(candidates) != 1:
        which = ", ".join(map(repr, candidates)) or "none"
        raise UserError(f"name the input of an example by inputs=: of its columns, {which} may be one")
    return str(candidates[0])


def reader(what: str, column: Column, example: Any, total: int) -> Callable[[Any, int], Any]:
    """Return the function that finds a part of an example, given the example and its number.

    Args:
        what: Name of the argument, for messages.
        column: How the part is found.
        example: The first example.
        total: Number of all examples.

    Raises:
        UserError: The column doesn't fit the examples.
    """
    if callable(column):
        function = column
        return lambda example, number: function(example)
    if isinstance(column, str):
        if not isinstance(example, Mapping):
            raise UserError(f"{what} is {column!r}, and examples have no names: give {forms(example)}")
        if column not in example:
            raise UserError(unknown_name(f"column for {what}", column, map(str, example)))
        return lambda example, number: example[column]
    if isinstance(column, numbers.Integral) and not isinstance(column, bool):
        parts = len(example) if isinstance(example, tuple | list) else 0
        if not 0 <= int(column) < parts:
            raise UserError(f"{what} is {column}, and an example has {count_nouns(parts, 'part')}: {forms(example)}")
        return lambda example, number: example[column]
    if not hasattr(column, "__len__"):
        raise UserError(f"{what} is {with_article(type(column).__name__)}, not {forms(example)}")
    values = np.asarray(column, dtype=object if isinstance(column, list | tuple) else None).tolist()
    if len(values) != total:
        raise UserError(f"{what} has {count_nouns(len(values), 'value')}, and there are {total:,} examples")
    return lambda example, number: values[number]


def plain(value: Any) -> Any:
    """Return a scalar as a number or text of Python: of a tensor or array of one value that value."""
    if getattr(value, "ndim", None) == 0 or isinstance(value, np.generic):
        value = value.item()
    return value.strip() if isinstance(value, str) else value


def as_numbers(
    what: str, values: Sequence[Any], names: Sequence[Sequence[str]], *, by_name: bool
) -> tuple[list[int], tuple[str, ...]]:
    """Give labels or domains numbers from 0 on.

    Args:
        what: `labels` or `domains`, for messages.
        values: A value for each example, as `plain` returns them.
        names: For each example, the names of numbers; empty: numbers are names themselves.
        by_name: Sort the names as texts, whatever was given.

    Returns:
        The number of each example, and the names by number: in the order that was given, of whole numbers in theirs,
        else sorted.

    Raises:
        UserError: Values that name nothing, with the first example of each kind.
    """
    wrong = Counter[str]()
    first = dict[str, tuple[int, Any]]()
    for number, value, known in zip(range(len(values)), values, names, strict=True):
        if problem := _not_a_name(value, known):
            wrong[problem] += 1
            first.setdefault(problem, (number, value))
    if wrong:
        raise UserError(*(_worded(what, problem, wrong[problem], *first[problem]) for problem in wrong))
    found = [
        known[value] if known and isinstance(value, int) else str(value)
        for value, known in zip(values, names, strict=True)
    ]
    if by_name:
        order = sorted(set(found))
    elif any(names):
        order = list(dict.fromkeys(name for known in dict.fromkeys(map(tuple, names)) for name in known))
        order += sorted(set(found) - set(order))
    elif all(isinstance(value, int) for value in values):
        order = list(map(str, sorted(set(values))))
    else:
        order = sorted(set(found))
    present = set(found)
    kept = tuple(name for name in order if name in present)
    position = {name: place for place, name in enumerate(kept)}
    return [position[name] for name in found], kept


def _not_a_name(value: Any, known: Sequence[str]) -> str:
    """Return why a value names no class or domain; empty if it does."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "are missing"
    if isinstance(value, bool | str):
        return "" if value != "" else "are missing"
    if isinstance(value, int):
        return "are outside of the names of the column" if known and not 0 <= value < len(known) else ""
    if isinstance(value, float):
        return "are fractions, not whole numbers or names"
    return "are no whole numbers or names"


def _worded(what: str, problem: str, times: int, number: int, value: Any) -> str:
    return f"{what} {problem} in {count_nouns(times, 'example')}, first in number {number} ({shorten(repr(value), 60)})"


def _may_be_input(value: Any) -> bool:
    several = isinstance(value, list) and bool(value) and isinstance(value[0], list | numbers.Real)
    return isinstance(value, Image.Image) or several or getattr(value, "ndim", 0) > 0


def forms(example: Any) -> str:
    """Return the forms that a column may have for examples like the one given, with the names that there are."""
    others = "a value for each example, or a function of an example"
    if isinstance(example, Mapping):
        return f"one of the columns {', '.join(map(repr, example))}, {others}"
    if isinstance(example, tuple | list):
        return f"a position from 0 to {len(example) - 1}, {others}"
    return others


def examples_of(sources: Sequence[Source]) -> Iterator[tuple[int, Source, Any]]:
    """Yield each example's number over all sources, its source, and itself; raise UserError if it can't be read."""
    places = ((source, position) for source in sources for position in range(len(source.examples)))
    for number, (source, position) in enumerate(places):
        try:
            example = source.examples[position]
        except MemoryError:
            raise
        except Exception as error:
            raise UserError(f"example {number} can't be read: {type(error).__name__}: {error}") from error
        yield number, source, example
