"""List the figures of a sweep, in the order of the report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from dgbench.report.figures.agreement import agreement, drawings_of_series, gaps, measures
from dgbench.report.figures.members import members
from dgbench.report.figures.panels import Drawing
from dgbench.report.figures.predictions import confusion, reliability
from dgbench.report.figures.ranking import ranks
from dgbench.report.figures.scores import accuracy, cost_against_accuracy, differences, scatter, selection
from dgbench.report.figures.sensitivity import sensitivity
from dgbench.report.figures.sensitivity_map import sensitivity_map
from dgbench.report.figures.streams import streams
from dgbench.report.figures.subject import Subject, Sweep
from dgbench.report.figures.training import hyperparameters, learning
from dgbench.report.select import Selector


@dataclass(frozen=True)
class Entry:
    """One figure of the report."""

    make: Callable[[Subject], Drawing | None]
    """Makes the drawing; None where there is nothing to draw."""
    needs: str
    """What must be there for something to be drawn."""


FIGURES: dict[str, Entry] = {
    "accuracy": Entry(accuracy, "a cell of the table with a number"),
    "differences": Entry(differences, "two rows with a complete trial in common"),
    "in_against_out": Entry(scatter, "finished runs, and validation parts of the training domains"),
    "selection": Entry(selection, "a row with a number in every column"),
    "learning": Entry(learning, "finished runs with two evaluated steps"),
    "members": Entry(members, "a row merged from several numbers of runs (--members)"),
    "streams": Entry(streams, "finished runs with adapters that were shown a stream (--stream)"),
    "sensitivity": Entry(sensitivity, "finished rows that differ in a value that they name (--grid)"),
    "sensitivity_map": Entry(sensitivity_map, "finished rows that differ in two values that they name (--grid)"),
    "hyperparameters": Entry(hyperparameters, "eight finished runs of a method, and a hyperparameter with four values"),
    "cost": Entry(cost_against_accuracy, "two rows with a number in every column and recorded times"),
    "agreement": Entry(agreement, "an analysis of three runs with the same domain held out (dgbench analyze)"),
    "measures": Entry(measures, "an analysis of each of three runs (dgbench analyze)"),
    "gaps": Entry(gaps, "an analysis of each of three runs, and validation parts of the training domains"),
    "confusion": Entry(confusion, "kept predictions of all models that a selector chose (--save_predictions)"),
    "reliability": Entry(reliability, "kept predictions of all models that a selector chose (--save_predictions)"),
}
"""Name -> figure of one data set, in the order of the report."""
AFTER = "selection"
"""The figure of a single data set that its ranks follow."""
RANKS_NEED = "three rows with a complete trial on each of three data sets, or of three folds of a single data set"


def drawings(subject: Subject) -> Iterator[Drawing]:
    """Yield the figures of a data set one by one, those of series last; those without data are left out."""
    for entry in FIGURES.values():
        drawing = entry.make(subject)
        if drawing:
            yield drawing
    yield from drawings_of_series(subject)


def gallery(sweep: Sweep, subjects: Sequence[Subject], selector: Selector) -> Iterator[tuple[str, list[Drawing]]]:
    """Yield (data set, figures), first ("", figures that compare data sets) where there are several.

    Args:
        sweep: The sweep.
        subjects: Its data sets.
        selector: The selector whose choices are ranked.
    """
    compared = ranks(sweep, selector) if subjects else None
    if compared and not compared.dataset:
        yield "", [compared]
    for subject in subjects:
        found = list(drawings(subject))
        if compared and compared.dataset:
            place = next((i for i, drawing in enumerate(found, 1) if drawing.name == AFTER), len(found))
            found.insert(place, compared)
        yield subject.dataset, found
