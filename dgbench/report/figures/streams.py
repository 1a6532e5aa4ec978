"""Draw the accuracy along the streams that adapters were shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dgbench.core.wording import group_values, printable
from dgbench.report.figures.panels import Drawing, Panel, Tips
from dgbench.report.figures.style import color_of
from dgbench.report.figures.subject import Subject
from dgbench.report.record_frames import finished_series

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def streams(subject: Subject) -> Drawing | None:
    """Draw accuracy against the part of the stream that was shown: a panel a row, a line for each test domain."""
    pairs = []
    results = subject.sweep.results
    for row, dataset, position, *_, series in finished_series(results):
        if dataset == subject.dataset and series.along is not None and position in results.reported(dataset):
            # Of the last model: the best in validation, which is recorded before it, may be the same.
            pairs += [
                ((row, view.domain), series.along[-1, series.views.index(view)])
                for view in results.folds[position].test
            ]
    if not pairs:
        return None
    lines = group_values(pairs)
    rows = group_values((row, domain) for row, domain in lines)
    domains = list(dict.fromkeys(domain for _, domain in lines))
    caption = (
        "Accuracy in each tenth of a test domain's stream, as its examples came: mean over the last models of all "
        "trials and draws. A line that falls shows errors that accumulate."
    )
    panels = [
        Panel(row, partial(_draw, subject.metric, {name: lines[row, name] for name in own}, domains), row)
        for row, own in rows.items()
    ]
    return Drawing(
        "streams",
        subject.dataset,
        "Accuracy along the stream",
        caption,
        tuple(panels),
        columns=4,
        width=2.4,
        height=1.9,
        share_x=True,
        share_y=True,
        legend=True,
    )


def _draw(metric: str, lines: Mapping[str, Sequence[NDArray[np.float64]]], domains: Sequence[str], axes: Axes) -> Tips:
    """Draw the lines of one row."""
    for domain, found in lines.items():
        parts = len(found[0])
        x = 100 * (np.arange(parts) + 0.5) / parts
        color = color_of(domains.index(domain))
        axes.plot(x, 100 * np.nanmean(found, axis=0), color=color, label=printable(domain))
    axes.set_xlabel("shown of the domain (%)")
    axes.set_ylabel(metric)
    return {}
