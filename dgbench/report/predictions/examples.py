"""Score listed examples apart from the others, such as those that a network's pretraining did not cover.

An example is named by its path below the data set's folder, `art_painting/dog/pic_001.jpg`, and where examples are no
files by domain and position, `75/12`. A listed path stands for the example whose whole name it ends with, folder by
folder, so lists may be relative to any folder above: `data/PACS/art_painting/dog/pic_001.jpg`. Part of a name matches
nothing, because it may be that of several examples.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dgbench.core.errors import UserError
from dgbench.core.protocol import View
from dgbench.core.wording import count_nouns, printable
from dgbench.report.predictions.metrics import LackingError, Metric, Predicted, example_names
from dgbench.report.results import Results, Series, Spot
from dgbench.store.predictions import PredictedView

LISTED, OTHERS = "listed", "others"
"""Names of the two metrics: the accuracy on listed examples, and on the others of the same domains."""
COLUMN = "path"
"""Column of a csv that holds the paths."""


class Example(NamedTuple):
    """A tested example."""

    dataset: str
    domain: str
    name: str
    """Its path below the data set's folder, or `DOMAIN/POSITION`."""


@dataclass(frozen=True)
class ExampleList:
    """The tested examples of some results that a file lists; made by `find_examples`."""

    file: str
    """The file's path."""
    paths: int
    """Number of different paths in it."""
    unmatched: int
    """Number of those that are no tested example."""
    ambiguous: int
    """Number of those that are examples of several data sets; they count for none."""
    examples: frozenset[Example]

    def metrics(self, dataset: str) -> tuple[Metric, Metric]:
        """Return the metrics `listed` and `others` for one data set.

        Both are means over the domains that have a listed example, so that they are of the same domains.
        """
        names: dict[str, set[str]] = {}
        for example in self.examples:
            if example.dataset == dataset:
                names.setdefault(example.domain, set()).add(example.name)
        return (
            Metric(LISTED, "accuracy on listed examples", _accuracy(names, listed=True)),
            Metric(OTHERS, "accuracy on the others of the same domains", _accuracy(names, listed=False)),
        )

    def lines(self, dataset: str, domains: Iterable[str]) -> Iterator[str]:
        """Yield the lines below a table: the number of listed examples of each tested domain, and of paths unused.

        Args:
            dataset: The table's data set.
            domains: Its tested domains.
        """
        own = [example.domain for example in self.examples if example.dataset == dataset]
        counts = {domain: own.count(domain) for domain in domains}
        shown = ", ".join(f"{domain} {n:,}" for domain, n in counts.items() if n)
        none = [domain for domain, n in counts.items() if not n]
        if shown:
            left_out = f"; without any, and left out of both: {', '.join(none)}" if none else ""
            yield f"{LISTED}: tested examples in {self.file}, {shown}; {OTHERS}: all others of the domain{left_out}"
        if self.unmatched:
            yield f"{self.unmatched:,} of {count_nouns(self.paths, 'path')} in {self.file} are no tested example"
        if self.ambiguous:
            several = f"{count_nouns(self.ambiguous, 'path')} of {self.file} could be of several data sets"
            yield f"{several} and count for none: put the data set's name before them"


def read_examples(file: Path | str) -> tuple[str, ...]:
    """Read a list of paths of examples: one a line, or of a `.csv` the column `path`; each once.

    Raises:
        UserError: The file can't be read, lacks the column, or is empty.
    """
    file = Path(file)
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            rows = csv.DictReader(opened) if file.suffix.lower() == ".csv" else None
            if rows is not None and COLUMN not in (rows.fieldnames or ()):
                raise UserError(f"{file}: a list of examples in a csv has them in a column {COLUMN!r}")
            lines = [line[COLUMN] or "" for line in rows] if rows is not None else opened.read().splitlines()
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file}: the list of examples can't be read: {error}") from error
    found = tuple(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not found:
        raise UserError(f"{file}: the list of examples is empty")
    return found


def find_examples(file: Path | str, places: Iterable[tuple[Results, str]]) -> ExampleList:
    """Find the examples that a file lists among those of which a sweep keeps predictions on test views.

    Args:
        file: The list, as for `read_examples`.
        places: (results, data set) pairs.

    Raises:
        UserError: The file is wrong, or lists no tested example.
    """
    # Tables of several selectors are of the same results.
    different = {(id(results), dataset): (results, dataset) for results, dataset in places}.values()
    return match_examples(file, [example for place in different for example in _tested(*place)])


def match_examples(file: Path | str, tested: Sequence[Example]) -> ExampleList:
    """Find the examples that a file lists among tested ones, as `find_examples` does."""
    listed = read_examples(file)
    if not tested:
        raise UserError(f"{file}: no predictions on test domains are kept: launch with --save_predictions")
    by_name: dict[str, set[Example]] = {}
    for example in tested:
        for name in (example.name, f"{example.dataset}/{example.name}"):
            by_name.setdefault(name, set()).add(example)
    found: set[Example] = set()
    unmatched = ambiguous = 0
    for path in listed:
        hits = _longest(path, by_name)
        if len({example.dataset for example in hits}) > 1:
            ambiguous += 1
        else:
            found |= hits
            unmatched += not hits
    if not found:
        raise UserError(_nothing(file, listed, tested, ambiguous))
    return ExampleList(printable(str(file)), len(listed), unmatched, ambiguous, frozenset(found))


def _longest(path: str, by_name: Mapping[str, set[Example]]) -> set[Example]:
    """Return the examples whose name is the longest end of a path; empty if none is."""
    parts = [part for part in path.replace("\\", "/").split("/") if part not in ("", ".")]
    ends = ("/".join(parts[start:]) for start in range(len(parts)))
    return next((by_name[end] for end in ends if end in by_name), set())


def _nothing(file: Path | str, listed: Sequence[str], tested: Sequence[Example], ambiguous: int) -> str:
    """Return the message for a list without any tested example."""
    if ambiguous:
        return f"{file}: its paths could be of several data sets: put the data set's name before them"
    first, example = printable(listed[0]), tested[0]
    like = f"the examples of {example.dataset} are named like {printable(example.name)}"
    return f"{file}: {count_nouns(len(listed), 'path')}, such as {first}, and no tested example among them; {like}"


def _tested(results: Results, dataset: str) -> Iterator[Example]:
    """Yield the examples of the test views of a data set, of every fold and trial that keeps predictions of a model."""
    of_spots: dict[Spot, list[Series]] = {}
    for (_, of), spots in results.candidates.items():
        for spot, seeds in spots.items() if of == dataset else ():
            if spot[0] in results.reported(dataset):
                of_spots.setdefault(spot, []).extend(one for one in seeds.values() if isinstance(one, Series))
    for (fold, _), several in of_spots.items():
        kept = next(filter(None, (_views(results, fold, series) for series in several)), {})
        for view, found in kept.items():
            domain = View.parse(view).domain
            yield from (Example(dataset, domain, name) for name in example_names(domain, found))


def _views(results: Results, fold: int, series: Series) -> Mapping[str, PredictedView]:
    """Return the test views of which a run keeps predictions of a model; empty if it keeps none."""
    for predictor, step in results.kept.steps(series.run):
        with suppress(LackingError):
            return results.kept.read(series.run, predictor, step, results.folds[fold].test).views
    return {}


def _accuracy(names: Mapping[str, set[str]], *, listed: bool) -> Callable[[Sequence[Predicted]], Mapping[str, float]]:
    """Make the accuracy on the listed or the other examples of each domain that has listed ones.

    Args:
        names: Domain -> names of its listed examples.
        listed: Whether to score these, or the others of the domain.
    """

    def compute(views: Sequence[Predicted]) -> Mapping[str, float]:
        if not names:
            raise LackingError("none of its tested examples is listed")
        means = []
        for view in views:
            if own := names.get(view.domain):
                chosen = np.array([name in own for name in view.names]) == listed
                if not chosen.any():
                    lacking = "no listed example" if listed else "listed examples alone"
                    raise LackingError(f"the tested part of {view.domain} has {lacking} in some trial")
                means.append(view.correct[chosen].mean())
        return {"": float(np.mean(means))} if means else {}

    return compute
