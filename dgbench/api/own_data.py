"""Take a data set of PyTorch or Hugging Face as data: read it once, and write what it gives to a folder.

Runs are executed by other processes, maybe on other machines, later, and an object lives in this process alone. So its
examples are written as files that every process can read, under a hash of their content, which records hold.
"""

from __future__ import annotations

import re
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from dgbench.api.columns import (
    Column,
    Source,
    as_numbers,
    examples_of,
    forms,
    input_column,
    label_column,
    plain,
    reader,
    sources_of,
)
from dgbench.api.written import Writer, array_of, image_of, same_content, writer_for
from dgbench.core.errors import Problems, UserError
from dgbench.core.progress import ReportProgress, shown_progress
from dgbench.core.wording import count_nouns
from dgbench.launchers.one_run import PLACE
from dgbench.store.files import absent_folders

_FOLDER = ".data"
"""Name of the folder in `PLACE` for data for which none is named; hidden, so that it is not taken for a sweep."""
_TWICE = 3
"""Examples that are read twice, to find a data set that draws."""
_MOST_PROBLEMS = 10


@dataclass(frozen=True)
class OwnData:
    """Examples in files, as `from_dataset` wrote them; stands for a data set in `train` and `sweep`."""

    name: str
    """The data set as commands take it: `csv:` or `arrays:`, and a path."""
    counts: Mapping[str, int]
    """Domain -> number of examples."""
    classes: tuple[str, ...]
    """Names of the classes, in the order of labels."""

    @property
    def domains(self) -> tuple[str, ...]:
        """Return the names of the domains."""
        return tuple(self.counts)

    def __repr__(self) -> str:
        counts = ", ".join(f"{domain} {number:,}" for domain, number in self.counts.items())
        total = count_nouns(sum(self.counts.values()), "example")
        return (
            f"{self.name}: {total} in {count_nouns(len(self.counts), 'domain')}: {counts}; {len(self.classes)} classes"
        )


def from_dataset(
    dataset: Any,
    *,
    domains: Column | None = None,
    labels: Column | None = None,
    inputs: Column | None = None,
    name: str = "",
    output_dir: str | PathLike[str] | None = None,
) -> OwnData:
    """Write the examples of a data set of PyTorch or Hugging Face to a folder, to train on them.

    Images of Pillow, and arrays of bytes (H, W), (H, W, 3) or (H, W, 4), become PNG files, which are resized and
    augmented as those of `csv:`. Tensors and other arrays, vectors or images (C, H, W) of one size, are used as they
    are; images with values outside of [0, 1] count as normalized already. Each example is read once, so a transform
    that draws is refused.

    Args:
        dataset: Anything with a length that is read by `[index]`; or several by name, in a dict or `DatasetDict`, which
            are a domain each unless `domains` is given.
        domains: Where an example's domain is: key of a dict, position in a tuple, a function of the example, or a value
            for each example.
        labels: Where its class is, in the same forms, as name or whole number; None: the second part of a tuple, or the
            column that has class names or is called `label`.
        inputs: Where its input is; None: the first part of a tuple, or the one column of images or numbers.
        name: Name of the data in tables; empty: the data set's own, or that of its class.
        output_dir: The folder to write, which other machines must see if runs are executed there; None: one in
            `train_output/.data` that is named by the content. Examples that it holds already are not written again.

    Raises:
        UserError: With what is wrong; nothing is left on disk.
    """
    sources = sources_of(dataset)
    name = name or _name_of(sources[0].examples)
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise UserError(f"name is {name!r}, and consists of letters, digits, '.', '-' and '_'")
    place = Path(output_dir if output_dir is not None else PLACE / _FOLDER).resolve()
    beside = (place.parent if output_dir is not None else place) / f".{name}.{uuid.uuid4().hex}"
    with shown_progress() as progress:
        reading = _Reading(sources, domains, labels, inputs, progress)
        new = absent_folders(beside)
        beside.mkdir(parents=True)
        try:
            with _about(0):
                kind, writer = writer_for(reading.first_input, beside, reading.total, name)
            reading.write(writer)
            classes, counts, digest = reading.finish(writer)
            final = place if output_dir is not None else place / digest[:8] / name
            _move(beside, final, kind)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
            for folder in new:
                with suppress(OSError):  # is gone, or holds the data
                    folder.rmdir()
    prefix, _, file = kind.partition(":")
    return OwnData(f"{prefix}:{final / file if file else final}", counts, classes)


class _Reading:
    """One pass over all examples."""

    def __init__(
        self,
        sources: Sequence[Source],
        domains: Column | None,
        labels: Column | None,
        inputs: Column | None,
        report: ReportProgress,
    ) -> None:
        """Find the columns by the first example; raise UserError with all columns that don't fit."""
        self._sources, self._report = sources, report
        self.total = sum(len(source.examples) for source in sources)
        _, _, example = next(examples_of(sources))
        problems = Problems()
        self._label: Column = ""
        with problems.collecting():
            self._label = label_column(sources[0], example, labels, domains)
            self._label_of = reader("labels", self._label, example, self.total)
        self._domain = domains
        self._domain_of: Callable[[Any, int], Any] | None = None
        with problems.collecting():
            if domains is not None:
                self._domain_of = reader("domains", domains, example, self.total)
            elif sources[0].domain is None:
                raise UserError(f"name the domain of an example by domains=, {forms(example)}")
        with problems.collecting():
            column = input_column(example, inputs, (self._label, domains))
            self._input_of = reader("inputs", column, example, self.total)
        problems.raise_if_any()
        self.first_input = self._input_of(example, 0)
        self._labels, self._domains = list[Any](), list[Any]()
        self._names = list[tuple[Sequence[str], Sequence[str]]]()

    def write(self, writer: Writer) -> None:
        """Read every example and write its input; raise UserError with the first inputs that can't be."""
        self._refuse_draws()
        problems = Problems()
        for number, source, example in examples_of(self._sources):
            self._report("examples", number, self.total)
            self._labels.append(plain(self._label_of(example, number)))
            self._domains.append(plain(self._domain_of(example, number)) if self._domain_of else plain(source.domain))
            self._names.append((source.names(self._label), source.names(self._domain)))
            with problems.collecting(), _about(number):
                writer.add(number, self._input_of(example, number))
            if len(problems.found) == _MOST_PROBLEMS:
                break
        problems.raise_if_any()
        self._report("examples", self.total, self.total)

    def _refuse_draws(self) -> None:
        """Raise UserError if one of the first examples has another input when it is read again."""
        once, again = ([*islice(examples_of(self._sources), _TWICE)] for _ in range(2))
        for (number, _, one), (_, _, other) in zip(once, again, strict=True):
            if not _equal(self._input_of(one, number), self._input_of(other, number)):
                raise UserError(
                    f"the input of example {number} is another one when it is read again: leave out transforms that "
                    "draw, because each example is read once; images are augmented in training"
                )

    def finish(self, writer: Writer) -> tuple[tuple[str, ...], dict[str, int], str]:
        """Write labels and domains by number; return classes, domain -> count, and the hash of the content."""
        problems, numbers, names = Problems(), list[list[int]](), list[tuple[str, ...]]()
        for which, (what, values) in enumerate((("labels", self._labels), ("domains", self._domains))):
            with problems.collecting():
                found = as_numbers(what, values, [known[which] for known in self._names], by_name=writer.by_name)
                numbers.append(found[0])
                names.append(found[1])
        problems.raise_if_any()
        (labels, domains), (classes, places) = numbers, names
        if len(places) < 2:
            raise UserError(f"all {self.total:,} examples are of the domain {places[0]!r}, and one is to be held out")
        if len(classes) < 2:
            raise UserError(f"all {self.total:,} examples are of the class {classes[0]!r}")
        digest = writer.finish(labels, classes, domains, places)
        count = Counter(domains)
        return classes, {place: count[number] for number, place in enumerate(places)}, digest


@contextmanager
def _about(number: int) -> Iterator[None]:
    """Begin the message of a `UserError` by the example whose input it is about."""
    try:
        yield
    except UserError as error:
        raise UserError(f"the input of example {number} {error}") from error


def _equal(one: Any, other: Any) -> bool:
    image, again = image_of(one), image_of(other)
    if image and again:
        return image.size == again.size and image.tobytes() == again.tobytes()
    try:
        return np.array_equal(array_of(one), array_of(other), equal_nan=True)
    except UserError:  # which the writer words
        return True


def _name_of(dataset: Any) -> str:
    """Return the name that a data set has: that of its builder (Hugging Face), else of its class."""
    info = getattr(dataset, "info", None)
    return getattr(info, "dataset_name", None) or type(dataset).__name__


def _move(beside: Path, final: Path, kind: str) -> None:
    """Move a written folder to its place, unless that holds the same; raise UserError if it holds something else."""
    final.parent.mkdir(parents=True, exist_ok=True)
    with suppress(OSError):  # something is there
        beside.rename(final)
        return
    if not same_content(beside, final, kind):
        raise UserError(f"{final} holds something else: remove it, or name another output_dir")
