"""Draw how much a hyperparameter matters: a curve of each method over the values of a grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from dgbench.core.stats import Estimate
from dgbench.core.wording import group_values, printable
from dgbench.report.differences import BASELINE
from dgbench.report.figures.panels import Drawing, Panel, Tips, scale_by_decades
from dgbench.report.figures.style import SOFT, color_of, mark_of
from dgbench.report.figures.subject import Subject
from dgbench.report.sensitivity import Point, in_order, points, rising, shown_columns

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DECADES = 8.0
"""Least ratio of the largest to the smallest value for a logarithmic axis."""


@dataclass(frozen=True)
class _Lines:
    """The curves of one panel, over the values of one hyperparameter."""

    column: str
    hparam: str
    values: Sequence[Any]
    """All values in the panel, rising: numbers, or words with places of their own."""
    curves: Mapping[str, Sequence[Point]]
    """Label -> its points."""
    numbers: Mapping[str, int]
    """Label -> its number among all curves of the figure, which gives its color and mark."""
    reference: Estimate | None
    """The baseline's number in this column, if it is a row that names no values."""

    def place(self, point: Point) -> float:
        """Return the horizontal place of a point."""
        value = point.values[self.hparam]
        return float(value) if self.numeric else float(self.values.index(value))

    @property
    def numeric(self) -> bool:
        """Return whether all values are numbers."""
        return not any(isinstance(value, str) for value in self.values)


def sensitivity(subject: Subject) -> Drawing | None:
    """Draw the points of a grid: out-of-domain and in-domain values over each hyperparameter, a panel a column."""
    ddof = subject.sweep.results.ddof
    found = [point for point in points(subject.table, ddof) if any(point.by_column.values())]
    panels, numbers = [], dict[str, int]()
    for names, own in group_values((point.names, point) for point in found).items():
        # Of several hyperparameters the one with most values is the axis, and each value of the others has a curve.
        values = {name: {point.values[name] for point in own} for name in names}
        axis = max(names, key=lambda name: len(values[name]))
        if len(values[axis]) < 2:
            continue
        for column in shown_columns(own):
            curves = group_values((_label(point, axis), point) for point in in_order(own))
            for label in curves:
                numbers.setdefault(label, len(numbers))
            lines = _Lines(column, axis, rising(values[axis]), curves, numbers, _baseline(subject, column))
            name = f"{', '.join(names)}: {column}"
            panels.append(Panel(name, partial(_draw, subject, lines), column))
    if not panels:
        return None
    caption = (
        "Each method at the values of a grid, all else equal. Solid: on the held-out domain, with one standard error "
        "over trials to each side; dashed: on the validation parts of the training domains. Each point is a row of the "
        f"tables; selection within it: {subject.table.selector.label}. Dotted is {BASELINE}, where that is a row."
    )
    return Drawing(
        "sensitivity",
        subject.dataset,
        "Sensitivity to hyperparameters",
        caption,
        tuple(panels),
        columns=4,
        width=3.0 if len(panels) > 1 else 5.4,
        height=2.6 if len(panels) > 1 else 3.6,
        legend=True,
    )


def _label(point: Point, axis: str) -> str:
    """Return the name of a point's curve: its method, and the values beside those of the axis."""
    others = (f"{name} {value}" for name, value in point.values.items() if name != axis)
    return ", ".join((point.method, *others))


def _baseline(subject: Subject, column: str) -> Estimate | None:
    """Return the baseline's estimate in a column of the table; None without such a row."""
    cells = {cell.column: cell for cell in subject.table.rows.get(BASELINE, ())}
    return cells[column].estimate if column in cells else None


def _draw(subject: Subject, lines: _Lines, axes: Axes) -> Tips:
    """Draw one panel."""
    tips: dict[str, Sequence[str]] = {}
    for label, own in lines.curves.items():
        number = lines.numbers[label]
        look: dict[str, Any] = {"color": color_of(number), "marker": mark_of(number), "markersize": 4}
        gid = f"marks-{lines.column}-{lines.hparam}-{number}"
        outside = [(lines.place(point), one) for point in own if (one := point.by_column[lines.column])]
        inside = [(lines.place(point), one) for point in own if (one := point.inside[lines.column])]
        if not outside:
            continue
        x, mean, error = (np.array(each) for each in zip(*_numbers(outside), strict=True))
        axes.plot(x, mean, label=printable(label), gid=gid, **look)
        axes.fill_between(x, mean - error, mean + error, color=look["color"], alpha=0.15, linewidth=0)
        if inside:
            x, mean, _ = (np.array(each) for each in zip(*_numbers(inside), strict=True))
            axes.plot(x, mean, "--", color=look["color"], linewidth=1)
        tips[gid] = [f"{point.row} on {lines.column}: {point.by_column[lines.column]}" for point in own]
    if any(point.inside[lines.column] for own in lines.curves.values() for point in own):
        axes.plot([], [], "--", color=SOFT, linewidth=1, label="in-domain")
    if lines.reference and np.isfinite(lines.reference.mean):
        axes.axhline(lines.reference.mean, color=SOFT, linewidth=1, linestyle=":", label=BASELINE)
    if not lines.numeric:
        axes.set_xticks(range(len(lines.values)), [printable(str(value)) for value in lines.values])
    elif lines.values[0] > 0 and lines.values[-1] >= _DECADES * lines.values[0]:
        scale_by_decades(axes)
    axes.set_xlabel(printable(lines.hparam))
    axes.set_ylabel(subject.metric)
    return tips


def _numbers(found: Sequence[tuple[float, Estimate]]) -> list[tuple[float, float, float]]:
    """Return place, mean and standard error of each estimate, 0 for one of a single trial."""
    return [(place, one.mean, one.error or 0.0) for place, one in found]
