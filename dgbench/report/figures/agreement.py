"""Draw how the measures of analyses go with accuracy on held-out domains."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from dgbench.core.wording import printable
from dgbench.report.analyses import HELD_OUT, WHOLE, estimates
from dgbench.report.analyses import agreement as agreement_frame
from dgbench.report.figures.panels import Drawing, Panel, Tips, marks, name_rows
from dgbench.report.figures.series import series_drawings
from dgbench.report.figures.style import SERIES, SOFT
from dgbench.report.figures.subject import Subject
from dgbench.report.series import Series

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_OUTCOMES = {"": "out-of-domain score", "_gap": "in-domain less out-of-domain"}
"""Ending of the columns of an agreement -> what measures are compared with."""


def agreement(subject: Subject) -> Drawing | None:
    """Draw Kendall's tau of each measure, with its interval over resampled runs."""
    return _agreement(subject, _own(subject))


def _agreement(subject: Subject, found: pd.DataFrame) -> Drawing | None:
    frame = agreement_frame(found)
    frame = frame[np.isfinite(frame["tau"].to_numpy(float))]
    if frame.empty:
        return None
    caption = (
        "How the order of runs by a measure agrees with their order by score: Kendall's tau-b, 1 for the same order, "
        "-1 for the opposite, within each held-out domain and averaged, with its 95 % interval over resampled runs. An "
        "interval that crosses the dashed line leaves open whether they go together."
    )
    panels = [Panel(title, partial(_draw_taus, frame, suffix), title) for suffix, title in _OUTCOMES.items()]
    look: dict[str, Any] = {"columns": 2, "width": 4.2, "height": 0.19 * len(frame) + 0.9, "share_y": "row"}
    return Drawing("agreement", subject.dataset, "Measures and scores", caption, tuple(panels), **look)


def _draw_taus(frame: pd.DataFrame, suffix: str, axes: Axes) -> Tips:
    """Draw the correlations with one outcome."""
    names = [f"{line.measure}, {line.role} ({line.analysis})" for line in frame.itertuples()]
    name_rows(axes, names)
    axes.axvline(0, color=SOFT, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
    taus, lows, highs = (frame[f"{name}{suffix}"].to_numpy(float) for name in ("tau", "low", "high"))
    for y, (low, high) in enumerate(zip(lows, highs, strict=True)):
        axes.plot([low, high], [y, y], color=SERIES[0], linewidth=1.6, alpha=0.55)
    kept = np.isfinite(taus)
    gid = f"taus{suffix}"
    marks(axes, taus[kept].tolist(), np.arange(len(taus))[kept].tolist(), gid, color=SERIES[0], markersize=4.5)
    axes.set_xlim(-1.08, 1.08)
    axes.set_xticks([-1, -0.5, 0, 0.5, 1])
    axes.set_xlabel("Kendall's tau")
    lines = zip(names, taus, lows, highs, frame["runs"], strict=True)
    tips = [f"{name}: {tau:+.2f}, 95 % {low:+.2f} to {high:+.2f}, {n} runs" for name, tau, low, high, n in lines]
    return {gid: [tip for tip, keep in zip(tips, kept, strict=True) if keep]}


def measures(subject: Subject) -> Drawing | None:
    """Draw each measure of each run against its score on the held-out domain."""
    return _scatter(subject, _own(subject), gap=False)


def gaps(subject: Subject) -> Drawing | None:
    """Draw each measure of each run against its in-domain less its out-of-domain score."""
    return _scatter(subject, _own(subject), gap=True)


def _scatter(subject: Subject, frame: pd.DataFrame, *, gap: bool) -> Drawing | None:
    frame = estimates(frame)
    frame = frame[frame["out_of_domain"].notna() & frame["value"].notna()]
    frame = frame[frame["in_domain"].notna()] if gap else frame
    found = []
    for (analysis, measure), own in frame.groupby(["analysis", "measure"], observed=True, sort=False):
        roles = list(dict.fromkeys(own["role"]))
        role = next((role for role in (HELD_OUT, WHOLE) if role in roles), roles[0])
        keys = ["row", "run", "held_out", "in_domain", "out_of_domain"]
        means = own[own["role"] == role].groupby(keys, observed=True, sort=False)["value"].mean().reset_index()
        if len(means) > 2:
            where = "" if role == WHOLE else f", {role}"
            found.append(
                Panel(f"{analysis}: {measure}", partial(_draw_scatter, subject, means, gap), f"{measure}{where}")
            )
    if not found:
        return None
    against = _OUTCOMES["_gap" if gap else ""]
    caption = (
        f"A point for each run: the measure, on the held-out domain where it has one, against {against}. Point at a "
        "mark to read which run it is."
    )
    look: dict[str, Any] = {"columns": 4, "width": 2.4, "height": 2.1, "share_y": True, "legend": True}
    title = f"Measures against {against}"
    return Drawing("gaps" if gap else "measures", subject.dataset, title, caption, tuple(found), **look)


def _draw_scatter(subject: Subject, means: pd.DataFrame, gap: bool, axes: Axes) -> Tips:
    """Draw the runs of each row with one measure."""
    tips: dict[str, Sequence[str]] = {}
    for number, (row, own) in enumerate(means.groupby("row", observed=True, sort=False)):
        y = 100 * ((own["in_domain"] - own["out_of_domain"]) if gap else own["out_of_domain"])
        look = subject.look_of(str(row))
        gid = f"{'gap' if gap else 'measure'}-{number}"
        marks(axes, own["value"].tolist(), y.tolist(), gid, label=printable(str(row)), markersize=4, alpha=0.65, **look)
        lines = zip(own["value"], y, own["held_out"], own["run"], strict=True)
        tips[gid] = [f"{row}, {held_out} held out: {x:.4g}, {score:.1f} ({run})" for x, score, held_out, run in lines]
    axes.set_ylabel("gap (points)" if gap else subject.metric)
    return tips


def drawings_of_series(subject: Subject) -> Iterator[Drawing]:
    """Yield the figures of the series that analyses found on a data set."""
    return series_drawings(one for one in subject.sweep.found_series if one.dataset == subject.dataset)


def drawings_of(subject: Subject, frame: pd.DataFrame, series: Iterable[Series]) -> Iterator[Drawing]:
    """Yield the figures of some of the findings on a data set.

    Args:
        subject: The data set.
        frame: Lines of `SweepResults.analyses`.
        series: Some of the sweep's series.
    """
    own = frame[frame["dataset"] == subject.dataset]
    found = (_agreement(subject, own), _scatter(subject, own, gap=False), _scatter(subject, own, gap=True))
    yield from filter(None, found)
    yield from series_drawings(one for one in series if one.dataset == subject.dataset)


def _own(subject: Subject) -> pd.DataFrame:
    frame = subject.sweep.analyses
    return frame[frame["dataset"] == subject.dataset]
