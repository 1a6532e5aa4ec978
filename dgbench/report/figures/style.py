"""Hold the one style of all figures: colors, marks, sizes and matplotlib's settings.

A figure is drawn in the colors of light mode. In the page each of them becomes a variable of CSS (`COLOR_NAMES`), which
has another value in dark mode; files for papers keep the colors as drawn.
"""

from __future__ import annotations

from typing import Any

INK, SOFT, LINE = "#22262b", "#5c6670", "#d9dde2"
"""Colors of text and marks, of axes and secondary text, and of grids."""
SERIES = (
    "#2f6fd0", "#c8590f", "#2a8a4a", "#b5329a", "#7a52cc", "#97690a", "#12808a", "#c23b3b", "#5a6f8c", "#62801a",
)  # fmt: skip
"""Colors of rows and other series, in order; all have a contrast of at least 4 to white."""
MARKS = "os^DvPX*"
"""Marks of rows, which change together with the color: rows differ also for readers who don't see the colors."""
COLOR_NAMES = {INK: "ink", SOFT: "soft", LINE: "line", **{color: f"c{i}" for i, color in enumerate(SERIES)}}
"""Color -> name of the CSS variable that replaces it in the page."""

SETTINGS: Any = {
    "axes.axisbelow": True,
    "axes.edgecolor": SOFT,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 9,
    "axes.linewidth": 0.7,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlecolor": INK,
    "figure.dpi": 100,
    "font.family": "sans-serif",
    "font.size": 9,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.4,
    "pdf.fonttype": 42,
    "savefig.dpi": 200,
    "svg.fonttype": "none",
    "svg.hashsalt": "dgbench",
    "text.color": INK,
    "text.parse_math": False,  # names of domains may hold dollars
    "xtick.color": SOFT,
    "xtick.labelcolor": INK,
    "xtick.labelsize": 8.5,
    "ytick.color": SOFT,
    "ytick.labelcolor": INK,
    "ytick.labelsize": 8.5,
}
"""Settings of matplotlib: text stays text in SVG and PDF, and equal figures are equal bytes."""


def color_of(position: int) -> str:
    """Return the color of the row or series at this position."""
    return SERIES[position % len(SERIES)]


def mark_of(position: int) -> str:
    """Return the mark of the row at this position."""
    return MARKS[position % len(MARKS)]
