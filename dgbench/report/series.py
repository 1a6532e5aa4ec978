"""Read the series of analyses, which are data to be drawn: curves, surfaces, points.

What each series looks like stands beside it in its record, so that folders of others' analyses can be shown as well.
pandas is imported only inside functions, because this file is also imported where no frame is made.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dgbench.core.cards import SeriesCard
from dgbench.core.errors import UserError
from dgbench.core.plain import from_plain
from dgbench.core.wording import unknown_name
from dgbench.report.analyses import PLACE, Analyzed, analyzed

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Series:
    """One series that one run of an analysis found."""

    name: str
    card: SeriesCard
    of: Analyzed
    """The run."""
    views: Mapping[str, Mapping[str, list[Any]]]
    """View, or "" for all together -> column -> values, which are numbers or texts."""

    @property
    def row(self) -> str:
        """Return the row that was measured."""
        return str(self.of.place[0])

    @property
    def analysis(self) -> str:
        """Return the name of the analysis."""
        return str(self.of.place[1])

    @property
    def dataset(self) -> str:
        """Return the name of the data set."""
        return str(self.of.place[2])

    @property
    def held_out(self) -> str:
        """Return the held-out domains, joined by `+`."""
        return str(self.of.place[3])


def read_series(folders: Iterable[Path | str]) -> Iterator[Series]:
    """Yield each series of each finished run of an analysis."""
    for run in analyzed(folders):
        for name, found in run.record.get("series", {}).items():
            views = {
                view: {column: _values(values) for column, values in columns.items()}
                for view, columns in found["views"].items()
            }
            yield Series(name, from_plain(SeriesCard, found["card"]), run, views)


def _values(values: list[Any]) -> list[Any]:
    # JSON has no numbers that are infinite or none.
    return [math.nan if value is None else value for value in values]


def series_frame(found: Iterable[Series], analysis: str, name: str | None = None) -> pd.DataFrame:
    """Return one series of all runs as a frame, a line for each point.

    Args:
        found: All series.
        analysis: The analysis.
        name: The series' name; None if the analysis has a single one.

    Raises:
        UserError: No run has found it, or the analysis has several and none is named.
    """
    import pandas as pd

    frames = [
        pd.DataFrame(
            {**dict(zip(PLACE, one.of.place, strict=True)), "role": one.of.role(view), "view": view, **columns}
        )
        for one in one_series(found, analysis, name)
        for view, columns in one.views.items()
    ]
    return pd.concat(frames, ignore_index=True)


def one_series(found: Iterable[Series], analysis: str, name: str | None = None) -> list[Series]:
    """Return one series of all runs; arguments and errors are those of `series_frame`."""
    series = list(found)
    analyses = dict.fromkeys(one.analysis for one in series)
    if analysis not in analyses:
        raise UserError(unknown_name("analysis that found a series", analysis, analyses))
    names = dict.fromkeys(one.name for one in series if one.analysis == analysis)
    if name is None and len(names) > 1:
        raise UserError(f"{analysis} found several series, name one: {', '.join(names)}")
    if name is not None and name not in names:
        raise UserError(unknown_name(f"series of {analysis}", name, names))
    return [one for one in series if one.analysis == analysis and one.name == (name or next(iter(names)))]
