"""Give the figures of the report to notebooks: `dgbench.load_results("runs/a").plot.accuracy()`.

They are the report's own drawings, in its style. matplotlib is imported only inside functions, because it is an extra
and takes a second.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from dgbench.core.errors import UserError
from dgbench.core.wording import unknown_name
from dgbench.report import tables
from dgbench.report.figures import gallery
from dgbench.report.figures.panels import Drawing
from dgbench.report.figures.ranking import ranks
from dgbench.report.figures.series import series_drawing
from dgbench.report.figures.subject import Subject, Sweep, subjects
from dgbench.report.select import Selector
from dgbench.report.selectors import default_selectors, selectors

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    Drawn: TypeAlias = Axes | NDArray[np.object_]
    """The axes of a figure of one panel; an array, (panels,), of those of several."""


class Plot:
    """One figure of a sweep, drawn by a call; an attribute of `Plots`."""

    def __init__(self, sweep: Sweep, name: str) -> None:
        self._sweep = sweep
        self._name = name
        # The figure's own sentence above the arguments that all share: notebooks show it at `results.plot.accuracy?`.
        self.__doc__ = f"{getattr(Plots, name).__doc__}\n\n{inspect.cleandoc(type(self).__call__.__doc__ or '')}"

    def __call__(
        self,
        dataset: str | None = None,
        selector: str | None = None,
        *,
        ax: Axes | None = None,
        panel: str | None = None,
    ) -> Drawn:
        """Draw the figure, and return its axes.

        Args:
            dataset: The data set; None where there is a single one.
            selector: The selector's name; None for the first of `dgbench collect`.
            ax: Axes to draw on, which keep their size; None for a new figure of pyplot.
            panel: Of a figure of several panels, the one to draw: a column, a row, or `METHOD: HYPERPARAMETER`.

        Returns:
            The axes where there is one panel, else an array of them.

        Raises:
            UserError: matplotlib is lacking, a name is unknown, or there is nothing to draw.
        """
        _check_matplotlib()
        subject = _subject(self._sweep, dataset, _selectors(self._sweep, selector))
        entry = gallery.FIGURES[self._name]
        drawing = entry.make(subject)
        if drawing is None:
            raise UserError(f"plot.{self._name} has nothing to draw for {subject.dataset}: it takes {entry.needs}")
        return _show(drawing, ax, panel)


class Plots:
    """The figures of a sweep; made as `SweepResults.plot`.

    Each attribute is a `Plot`, to be called with a data set and a selector; `ranks` compares data sets.
    """

    def __init__(self, sweep: Sweep) -> None:
        self._sweep = sweep

    @property
    def accuracy(self) -> Plot:
        """Each row on each column of the table, with standard errors and 95 % intervals over trials."""
        return Plot(self._sweep, "accuracy")

    @property
    def differences(self) -> Plot:
        """Each row's difference from the first within trials, with its 95 % interval."""
        return Plot(self._sweep, "differences")

    @property
    def in_against_out(self) -> Plot:
        """Each run at its last step: the training domains' validation parts against the held-out domain."""
        return Plot(self._sweep, "in_against_out")

    @property
    def selection(self) -> Plot:
        """The mean by each selector, or by one, against the best model that there was."""
        return Plot(self._sweep, "selection")

    def ranks(self, selector: str | None = None, *, ax: Axes | None = None) -> Drawn:
        """Draw mean ranks over data sets, or over the folds of a single one, with the critical difference."""
        _check_matplotlib()
        (chosen, *_) = _selectors(self._sweep, selector)
        drawing = ranks(self._sweep, chosen)
        if drawing is None:
            raise UserError(f"plot.ranks has nothing to draw: it takes {gallery.RANKS_NEED}")
        return _show(drawing, ax, None)

    @property
    def learning(self) -> Plot:
        """Values during training, a panel a row: in the training domains, and on each held-out one."""
        return Plot(self._sweep, "learning")

    @property
    def members(self) -> Plot:
        """The mean of each merged row against the number of runs that it is merged from."""
        return Plot(self._sweep, "members")

    @property
    def streams(self) -> Plot:
        """Accuracy along the streams that adapters were shown, a panel a row, on each test domain."""
        return Plot(self._sweep, "streams")

    @property
    def sensitivity(self) -> Plot:
        """Each method over the values of a grid (`--grid`), on the held-out domain and in the training domains."""
        return Plot(self._sweep, "sensitivity")

    @property
    def sensitivity_map(self) -> Plot:
        """Each method over the values of a grid of two hyperparameters, a panel for each method and held-out domain."""
        return Plot(self._sweep, "sensitivity_map")

    @property
    def hyperparameters(self) -> Plot:
        """Each hyperparameter that was drawn against the value on the held-out domain."""
        return Plot(self._sweep, "hyperparameters")

    @property
    def cost(self) -> Plot:
        """The mean over domains against the time of all runs that a row needs."""
        return Plot(self._sweep, "cost")

    @property
    def agreement(self) -> Plot:
        """Kendall's tau of each measure of analyses with accuracy on held-out domains, with its 95 % interval."""
        return Plot(self._sweep, "agreement")

    @property
    def measures(self) -> Plot:
        """Each measure of analyses against accuracy on the held-out domain, a panel a measure."""
        return Plot(self._sweep, "measures")

    @property
    def gaps(self) -> Plot:
        """Each measure of analyses against in-domain less out-of-domain accuracy, a panel a measure."""
        return Plot(self._sweep, "gaps")

    def series(
        self,
        analysis: str,
        name: str | None = None,
        *,
        dataset: str | None = None,
        held_out: str | None = None,
        ax: Axes | None = None,
        panel: str | None = None,
    ) -> Drawn:
        """Draw a series that an analysis found, of each row the run with the highest in-domain accuracy.

        Args:
            analysis: Name of the analysis.
            name: Name of the series; None where the analysis has a single one.
            dataset: The data set; None where there is a single one.
            held_out: The held-out domains, joined by `+`; None where there are no others.
            ax: Axes to draw on, which keep their size; None for a new figure of pyplot.
            panel: Of a figure of several panels, the one to draw.

        Returns:
            The axes where there is one panel, else an array of them.

        Raises:
            UserError: matplotlib is lacking, a name is unknown or must be given, or there is nothing to draw.
        """
        _check_matplotlib()
        return _show(series_drawing(self._sweep.found_series, analysis, name, dataset, held_out), ax, panel)

    @property
    def confusion(self) -> Plot:
        """The confusion matrix of each row's chosen models, from their kept predictions."""
        return Plot(self._sweep, "confusion")

    @property
    def reliability(self) -> Plot:
        """Accuracy against confidence of each row's chosen models, from their kept predictions."""
        return Plot(self._sweep, "reliability")


def _subject(sweep: Sweep, dataset: str | None, chosen: tuple[Selector, ...]) -> Subject:
    """Return the data set of this name, or the only one."""
    names = list(sweep.results.datasets)
    if dataset is None and len(names) > 1:
        raise UserError(f"a figure shows one data set: dataset= {', '.join(names)}")
    name = dataset if dataset is not None else names[0]
    if name not in names:
        raise UserError(unknown_name("data set", name, names))
    report = tables.build(sweep.results, chosen)
    found = {subject.dataset: subject for subject in subjects(sweep, report)}
    if name not in found:
        raise UserError(*(report.absent or [f"{name} has no table"]))
    return found[name]


def _selectors(sweep: Sweep, name: str | None) -> tuple[Selector, ...]:
    return tuple(selectors([name])) if name else tuple(default_selectors(sweep.results))


def _show(drawing: Drawing, ax: Axes | None, panel: str | None) -> Drawn:
    """Draw on given axes, or on a new figure of pyplot, which notebooks show."""
    if ax is not None:
        drawing.draw_on(ax, panel)
        return ax
    if panel is not None:
        drawing = drawing.only(panel)
    from matplotlib import pyplot

    make: Callable[..., Figure] = pyplot.figure
    axes = drawing.render(make).axes
    return axes[0] if len(axes) == 1 else np.array(axes, dtype=object)


def _check_matplotlib() -> None:
    """Raise `UserError` with the extra's name if matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UserError("plots need the package matplotlib: pip install 'dgbench[plots]'") from error
