"""List the kept predictions of chosen models, an example a line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np

from dgbench.core.protocol import View
from dgbench.report.predictions.chosen import chosen_series
from dgbench.report.predictions.examples import Example
from dgbench.report.predictions.metrics import LackingError, Predicted, example_name, predicted_views
from dgbench.report.results import Results
from dgbench.report.select import Selector
from dgbench.store.predictions import PredictedView


@dataclass(frozen=True)
class Line:
    """The prediction of a chosen model for one example. Its fields are the columns of `dgbench predictions`."""

    row: str
    dataset: str
    held_out: str
    """The fold's held-out domains, joined by `+`."""
    trial: int
    run: str
    """Id of the model's run."""
    step: int
    """The step after which the model was taken."""
    domain: str
    """Domain of the example."""
    part: str
    """Part of the domain that the example lies in, `in` or `out`."""
    position: int
    """Position of the example in its domain."""
    file: str
    """Path below the data set's folder; empty where the example is no file."""
    label: str
    """Name of its class."""
    predicted: str
    """Name of the class with the largest logit."""
    probability: float
    """Of that class, by the softmax: in [0, 1]."""

    @property
    def example(self) -> Example:
        """Return the example by its name, as lists of examples have it."""
        return Example(self.dataset, self.domain, self.file or example_name(self.domain, self.position))


COLUMNS = tuple(field.name for field in fields(Line))
"""Names of the columns, in their order."""


@dataclass(frozen=True)
class Lacking:
    """A choice whose predictions can't be listed, or a data set without any choice."""

    what: str
    """Names of the row, data set, held-out domains and trial, or of the selector and the data set."""
    why: str
    """The reason."""


def list_predictions(
    results: Results,
    selector: Selector,
    rows: Sequence[str] = (),
    datasets: Sequence[str] = (),
    held_out: Sequence[str] = (),
    trials: Sequence[int] = (),
) -> Iterator[Line | Lacking]:
    """Yield the kept predictions of the chosen models on the test views, in the order of the tables.

    Args:
        results: The sweep.
        selector: The selector.
        rows: These rows only; none: all.
        datasets: These data sets only; none: all.
        held_out: Folds that hold out one of these domains only; none: all.
        trials: These trials only; none: all.

    Yields:
        A line for each example; for each choice without kept predictions, and for each data set on which the selector
        can't answer, the reason.
    """
    for dataset in datasets or results.datasets:
        if why := selector.unavailable(results, dataset):
            yield Lacking(f"{selector.name} on {dataset}", f"not available, {why}")
            continue
        for row in rows or results.rows:
            for position, trial in _places(results, row, dataset, held_out, trials):
                held_out_name = "+".join(results.folds[position].held_out)
                try:
                    yield from _of_choice(results, selector, position, (row, dataset, held_out_name, trial))
                except LackingError as error:
                    yield Lacking(f"{row} on {dataset} [{held_out_name}] trial {trial}", str(error))


def _places(
    results: Results, row: str, dataset: str, held_out: Sequence[str], trials: Sequence[int]
) -> Iterator[tuple[int, int]]:
    """Yield the requested folds and trials of a row."""
    spots = results.candidates.get((row, dataset), {})
    for position in results.reported(dataset):
        if not held_out or set(held_out) & set(results.folds[position].held_out):
            yield from sorted((p, trial) for p, trial in spots if p == position and (not trials or trial in trials))


def _of_choice(results: Results, selector: Selector, position: int, place: tuple[str, str, str, int]) -> Iterator[Line]:
    """Yield the lines of one choice; raise `LackingError` if there are none."""
    row, dataset, _, trial = place
    series, step = chosen_series(results, selector, row, dataset, position, trial)
    views = results.folds[position].test
    kept = results.kept.read(series.run, series.predictor, step, views)
    for found, view in zip(predicted_views(kept, views), views, strict=True):
        yield from _of_view((*place, series.run, step), view, found, kept.views[str(view)])


def _of_view(
    choice: tuple[str, str, str, int, str, int], view: View, found: Predicted, kept: PredictedView
) -> Iterator[Line]:
    """Yield a line for each example of a view."""
    files = kept.files or [""] * len(found.labels)
    columns = (np.asarray(kept.positions), found.labels, found.predicted, found.confidence)
    for file, position, label, predicted, confidence in zip(files, *(c.tolist() for c in columns), strict=True):
        names = found.classes[label], found.classes[predicted]
        yield Line(*choice, view.domain, view.part, position, file, *names, confidence)
