"""Arrange rows that name values of hyperparameters, `SAM:rho=0.1`, by method and value: how much a value matters.

Such rows are the points of a grid (`dgbench launch --grid`). Each has its own cells in the tables, so nothing is chosen
among them; this file only puts them side by side. pandas is imported only inside functions, because this file is also
imported where no frame is made.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from dgbench.core.errors import UserError
from dgbench.core.row_names import read_assignments, read_value, split_name
from dgbench.core.stats import Estimate, average, estimate
from dgbench.core.wording import group_values
from dgbench.report.results import Gap
from dgbench.report.run_frames import HPARAMS
from dgbench.report.tables import AVERAGE, Cell, Report, Section, Table, shortfall

if TYPE_CHECKING:
    import pandas as pd

Values: TypeAlias = Mapping[str, Any]
"""Hyperparameter -> value: a number if its text is one."""
BELOW = (
    "in-domain: of the chosen models on the validation parts of the training domains; +/- is one standard error over "
    "trials",
    "each line is a row of its own: the selector chose the step, and among draws if there are several, never a value",
)
"""Lines below a section."""


@dataclass(frozen=True)
class Point:
    """A row that names values, in a table of one data set; estimates are in percent, with errors over trials."""

    row: str
    method: str
    """The row's name without the values."""
    values: Values
    by_column: Mapping[str, Estimate | None]
    """Column -> estimate on the held-out domain; None where runs are lacking. The last is the mean over columns."""
    inside: Mapping[str, Estimate | None]
    """The same on the validation parts of the training domains; None also where there are none."""
    gaps: tuple[Gap, ...]
    """The runs that are lacking, each once."""

    @property
    def names(self) -> tuple[str, ...]:
        """Return the hyperparameters that the row names."""
        return tuple(self.values)


def split_row(row: str) -> tuple[str, dict[str, Any]]:
    """Return the name of a row without values, and these: hyperparameter -> value.

    A name that two of its words have is that of one of them, `SAM.lr`.

    >>> split_row("SAM:rho=0.1+SWAD")
    ('SAM+SWAD', {'rho': 0.1})
    """
    parts = [(word, read_assignments(text, row) if text is not None else {}) for word, text in split_name(row)]
    owners = Counter(name for _, own in parts for name in own)
    values = {
        name if owners[name] == 1 else f"{word}.{name}": read_value(text, "number")
        for word, own in parts
        for name, text in own.items()
    }
    return "+".join(word for word, _ in parts), values


def points(table: Table, ddof: int) -> list[Point]:
    """Return the rows of a data set's table that name values, in the order of the table.

    Args:
        table: The table.
        ddof: Degrees of freedom subtracted in standard deviations, as in `Results.ddof`.
    """
    found = []
    for row, cells in table.rows.items():
        method, values = split_row(row)
        if values and table.dataset:
            folds = [cell for cell in cells[:-1] if not cell.domain]
            gaps = tuple(dict.fromkeys(gap for cell in folds for gap in cell.gaps))
            outside, inside = (_estimates(folds, what, ddof) for what in ("score", "in_domain"))
            found.append(Point(row, method, values, outside, inside, gaps))
    return found


def _estimates(folds: Sequence[Cell], what: str, ddof: int) -> dict[str, Estimate | None]:
    """Return column -> estimate of a value of the picks, and of its mean over columns in each trial."""
    by_trial: dict[int, list[float]] = {}
    found: dict[str, Estimate | None] = {}
    for cell in folds:
        picks = {trial: getattr(outcome.pick, what, None) for trial, outcome in cell.trials.items()}
        values: dict[int, float] = {trial: value for trial, value in picks.items() if value is not None}
        whole = bool(values) and len(values) == len(picks) and cell.estimate is not None
        found[cell.column] = estimate(list(values.values()), ddof) if whole else None
        for trial, value in values.items() if whole else ():
            by_trial.setdefault(trial, []).append(value)
    complete = all(found.values()) and all(len(values) == len(folds) for values in by_trial.values())
    means = [average(values) for _, values in sorted(by_trial.items())]
    return {**found, AVERAGE: estimate(means, ddof) if complete and means else None}


def check_grid(report: Report) -> None:
    """Raise UserError if no row of a report names values."""
    if not any(split_row(row)[1] for table in report.tables for row in table.rows):
        raise UserError("--sensitivity: no row has values of its own: launch some with --grid NAME=VALUE,VALUE")


def sensitivity_sections(report: Report, ddof: int) -> Iterator[Section]:
    """Yield a section for each data set, selector and set of hyperparameters that rows name.

    Args:
        report: The tables.
        ddof: As for `points`.
    """
    for table in report.tables:
        for names, own in group_values((point.names, point) for point in points(table, ddof)).items():
            columns = shown_columns(own)
            head = ("method", *names, "in-domain", *columns)
            lines = [_cells(point, columns) for point in in_order(own)]
            title = f"Sensitivity to {' and '.join(names)} on {table.dataset}"
            content = {"dataset": table.dataset, "selector": table.selector.name, "points": own}
            yield Section(f"{title}, model selection method: {table.selector.label}", (head, *lines), BELOW, content)


def shown_columns(found: Sequence[Point]) -> list[str]:
    """Return the columns of points; a mean over a single one, which would repeat it, is left out."""
    columns = list(found[0].by_column)
    return columns if len(columns) > 2 else columns[:1]


def in_order(found: Iterable[Point]) -> list[Point]:
    """Return points method by method, and of a method by rising values."""
    by_method = group_values((point.method, point) for point in found)
    return [point for own in by_method.values() for point in sorted(own, key=_rank)]


def rising(values: Iterable[Any]) -> list[Any]:
    """Return the different ones of values, rising: numbers before texts."""
    return sorted(set(values), key=_rank_of_value)


def _rank(point: Point) -> list[tuple[bool, float, str]]:
    """Return a key by which points are sorted."""
    return [_rank_of_value(value) for value in point.values.values()]


def _rank_of_value(value: Any) -> tuple[bool, float, str]:
    return isinstance(value, str), math.inf if isinstance(value, str) else float(value), str(value)


def _cells(point: Point, columns: Sequence[str]) -> tuple[str, ...]:
    """Return a line of a section."""
    inside = point.inside[AVERAGE]
    lacking = shortfall(point.gaps) if point.gaps else "-"
    texts = (str(point.by_column[name] or lacking) for name in columns)
    return (point.method, *map(str, point.values.values()), str(inside or "-"), *texts)


def sensitivity_frame(report: Report, ddof: int) -> pd.DataFrame:
    """Make the frame of `SweepResults.sensitivity` from the tables of one selector."""
    import pandas as pd

    lines = []
    for table in report.tables:
        for point in in_order(points(table, ddof)):
            for column in shown_columns([point]):
                outside, inside = point.by_column[column], point.inside[column]
                lines.append(
                    {"dataset": table.dataset, "method": point.method, "row": point.row, "column": column}
                    | {f"{HPARAMS}{name}": value for name, value in point.values.items()}
                    | {"in_domain": inside and inside.mean, "in_domain_error": inside and inside.error}
                    | {"out_of_domain": outside and outside.mean, "error": outside and outside.error}
                    | {"n": outside.n if outside else 0, "lacking": len(point.gaps)}
                )
    hparams = dict.fromkeys(name for line in lines for name in line if name.startswith(HPARAMS))
    numbers = ("in_domain", "in_domain_error", "out_of_domain", "error")
    frame = pd.DataFrame(lines, columns=["dataset", "method", "row", "column", *hparams, *numbers, "n", "lacking"])
    return frame.astype({**dict.fromkeys(numbers, "float64"), "n": "int64", "lacking": "int64"})
