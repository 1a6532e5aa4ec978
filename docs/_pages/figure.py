"""Draw the README's picture, one row of a table a line, from the table in results/averaging.md.

    python docs/_pages/figure.py

Writes docs/assets/averaging.svg. Needs matplotlib (`pip install 'dgbench[plots]'`).
"""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib

from dgbench.catalogue.catalogue import Catalogue
from dgbench.catalogue.rows import parse_row

ROOT = Path(__file__).parents[2]
STYLES = {
    "algorithm": ("#3f51b5", "o"),
    "average": ("#00897b", "s"),
    "merger": ("#ef6c00", "^"),
    "adapter": ("#ad1457", "D"),
}
"""Kind of the last name of a row -> color, at least 3 : 1 against white, and a marker for readers who see no colors."""


def read_means(text: str) -> dict[str, tuple[float, float]]:
    """Return row -> (mean, standard error) in percent from the first "Averages" table of a Markdown file."""
    table = text.partition("### Averages")[2].partition("###")[0]
    found = re.findall(r"^\| ([\w+]+) \| ([\d.]+) ± ([\d.]+) \|", table, flags=re.MULTILINE)
    return {row: (float(mean), float(error)) for row, mean, error in found}


def main() -> None:
    """Draw docs/assets/averaging.svg."""
    matplotlib.use("svg")
    # The same file on every machine, so that drawing it again changes nothing: no date, no random ids, text as text.
    matplotlib.rcParams.update({"svg.hashsalt": "dgbench", "svg.fonttype": "none", "font.size": 10})
    from matplotlib import pyplot
    from matplotlib.lines import Line2D

    means = sorted(read_means((ROOT / "results" / "averaging.md").read_text()).items(), key=lambda item: item[1])
    catalogue = Catalogue()
    figure, axes = pyplot.subplots(figsize=(7.6, 4.6), layout="constrained")
    for place, (row, (mean, error)) in enumerate(means):
        kind, _ = parse_row(row, catalogue).entries[-1]
        color, marker = STYLES[kind]
        axes.errorbar(mean, place, xerr=error, fmt=marker, color=color, capsize=2.5, markersize=5)
    axes.set_yticks(range(len(means)), [row for row, _ in means])
    axes.set_xlabel("accuracy in percent, mean over six rotations held out in turn\n± 1 standard error over 3 trials")
    axes.grid(axis="x", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False)
    marks = [Line2D([], [], color=color, marker=marker, label=kind) for kind, (color, marker) in STYLES.items()]
    axes.legend(handles=marks, title="last step of the row", frameon=False, loc="lower right")
    figure.savefig(ROOT / "docs" / "assets" / "averaging.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
