"""Describe a figure as panels, and lay them out on a figure of matplotlib or draw one of them on given axes.

matplotlib is imported only inside functions, because it is an extra and takes a second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from dgbench.core.errors import UserError
from dgbench.core.wording import printable
from dgbench.report.figures.style import INK, LINE, SETTINGS, SOFT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Tips: TypeAlias = Mapping[str, Sequence[str]]
"""Group id of an artist -> the text for each of its marks, in the order of drawing."""


@dataclass(frozen=True)
class Panel:
    """One coordinate system of a figure."""

    name: str
    """Its name among the panels of the figure."""
    draw: Callable[[Axes], Tips]
    """Draws on axes, and returns the texts of marks."""
    title: str = ""
    """What stands above it; empty for nothing."""


@dataclass(frozen=True)
class Rendered:
    """A drawing on a figure of matplotlib."""

    figure: Figure
    axes: tuple[Axes, ...]
    """Those of each panel."""
    tips: Tips


@dataclass(frozen=True)
class Drawing:
    """A figure before it is drawn."""

    name: str
    """Its name in ids, in file names and among the methods of `SweepResults.plot`."""
    dataset: str
    """The data set that it shows; empty if it compares all of a sweep."""
    title: str
    caption: str
    """What is drawn and how to read it; also its text alternative."""
    panels: tuple[Panel, ...]
    columns: int = 1
    """Most panels side by side."""
    width: float = 5.4
    """Of a panel, in inches."""
    height: float = 3.6
    """Of a panel, in inches."""
    share_x: bool = False
    share_y: bool | Literal["row"] = False
    """`row`: those side by side share it."""
    legend: bool = False
    """Whether one legend explains all panels."""

    def render(self, make: Callable[..., Figure] | None = None) -> Rendered:
        """Draw all panels on a new figure.

        Args:
            make: What makes it, `matplotlib.figure.Figure` or `pyplot.figure`; None for the former.
        """
        import matplotlib
        from matplotlib.figure import Figure

        with matplotlib.rc_context(SETTINGS):
            columns = min(len(self.panels), self.columns)
            lines = -(-len(self.panels) // columns)
            size = max(self.width * columns, 3.4), self.height * lines
            figure = (make or Figure)(figsize=size, layout="constrained")
            grid = figure.subplots(lines, columns, squeeze=False, sharex=self.share_x, sharey=self.share_y)
            places: list[Axes] = list(grid.ravel())
            for unused in places[len(self.panels) :]:
                unused.remove()
            used = tuple(places[: len(self.panels)])
            tips: dict[str, Sequence[str]] = {}
            for panel, axes in zip(self.panels, used, strict=True):
                tips |= _draw(panel, axes)
            self._clear_inner_labels(used, columns)
            if self.legend:
                _legend_below(figure, used)
            return Rendered(figure, used, tips)

    def draw_on(self, axes: Axes, name: str | None = None) -> None:
        """Draw one panel on given axes, its legend within.

        Args:
            axes: The axes, which keep the size and the settings of the figure that they belong to.
            name: The panel's name; None if there is a single panel.

        Raises:
            UserError: There are several panels and none is named, or none has this name.
        """
        import matplotlib

        names = [panel.name for panel in self.panels]
        if name is None and len(names) > 1:
            raise UserError(f"{self.name} has {len(names)} panels, and axes hold one: panel= {', '.join(names)}")
        (panel,) = self.only(name).panels if name is not None else self.panels
        with matplotlib.rc_context(SETTINGS):
            _draw(panel, axes)
            if self.legend:
                axes.legend()

    def only(self, name: str) -> Drawing:
        """Return the figure of one of its panels; raise `UserError` if it has none of this name."""
        names = [panel.name for panel in self.panels]
        if name not in names:
            raise UserError(f"{self.name} has no panel {name!r}; it has {', '.join(names)}")
        return replace(self, panels=(self.panels[names.index(name)],))

    def _clear_inner_labels(self, used: Sequence[Axes], columns: int) -> None:
        """Remove labels that panels on the same line or column share."""
        for place, axes in enumerate(used):
            if place % columns and (self.share_y or used[place - 1].get_ylabel() == axes.get_ylabel()):
                axes.set_ylabel("")
            if self.share_x and place + columns < len(used):
                axes.set_xlabel("")
            elif self.share_x:
                axes.tick_params(labelbottom=True)  # matplotlib hides them above a place without a panel


def _draw(panel: Panel, axes: Axes) -> Tips:
    """Draw a panel in the one style, whatever the style of the axes was when they were made."""
    axes.tick_params(labelsize=8.5, color=SOFT, labelcolor=INK, grid_color=LINE, grid_linewidth=0.6)
    tips = panel.draw(axes)
    if panel.title:
        axes.set_title(printable(panel.title))
    return tips


def _legend_below(figure: Figure, panels: Iterable[Axes]) -> None:
    """Put one legend below the figure, as wide as the figure allows, and make room for it."""
    found: dict[str, Any] = {}
    for axes in panels:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(name, handle)
    longest = max(map(len, found), default=1)
    columns = max(1, int(figure.get_figwidth() / (0.085 * longest + 0.45)))
    figure.set_figheight(figure.get_figheight() + 0.19 * -(-len(found) // columns))
    names, handles = list(found), list(found.values())
    figure.legend(handles, names, loc="outside lower center", ncols=min(columns, len(names)), handlelength=1.4)


def name_rows(axes: Axes, rows: Sequence[str]) -> None:
    """Put the names of rows on a vertical axis, the first on top."""
    axes.set_yticks(range(len(rows)), [printable(row) for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)


def marks(axes: Axes, x: Sequence[float], y: Sequence[float], gid: str, **look: Any) -> None:
    """Draw marks that no line joins, as a group that can be given texts to show on hover.

    Args:
        axes: Where.
        x: Horizontal values.
        y: Vertical values.
        gid: The group's id in SVG.
        **look: Properties of the line of matplotlib that the marks are.
    """
    axes.plot(x, y, gid=gid, **{"linestyle": "none", "marker": "o", "markeredgewidth": 0, **look})


def scale_by_decades(axes: Axes) -> None:
    """Give the horizontal axis a logarithmic scale with plain numbers: matplotlib's own are formulas."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_xscale("log")
    low, high = axes.get_xlim()
    subs = (1.0,) if high > 50 * low else (1.0, 2.0, 5.0) if high > 4 * low else (1.0, 2.0, 3.0, 4.0, 5.0, 7.0)
    axes.xaxis.set_major_locator(LogLocator(subs=subs))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
