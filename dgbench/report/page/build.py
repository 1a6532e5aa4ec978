"""Put the parts of a report together: one page of HTML, or its figures as files.

matplotlib and jinja2 are imported only inside functions, because they are extras that no other command needs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson

from dgbench.core.errors import UserError
from dgbench.core.version import __version__
from dgbench.core.wording import printable, printable_lines
from dgbench.report import document, tables
from dgbench.report.figures.curves import read_curves
from dgbench.report.figures.gallery import gallery
from dgbench.report.figures.panels import Drawing
from dgbench.report.figures.style import SETTINGS
from dgbench.report.figures.subject import subjects
from dgbench.report.frames import SweepResults
from dgbench.report.page import content, runs, svg
from dgbench.report.page.all_domains import Reference
from dgbench.report.select import Selector
from dgbench.report.tables import Report

ALL_DATASETS = "All data sets"
"""Heading of figures that compare data sets."""
TEMPLATE, STYLE, SCRIPT = "page.html", "page.css", "page.js"
"""Files of this package that the page is made from."""
SUFFIXES = (".pdf", ".svg", ".png")
"""Kinds of files that `write_figures` makes of each figure."""


def build_page(
    results: SweepResults, selectors: Sequence[Selector], partial: bool = False, reference: Reference | None = None
) -> str:
    """Make the report of a sweep as one HTML page.

    Args:
        results: The sweep, complete or not.
        selectors: The selectors, in the order of their tabs.
        partial: Whether incomplete cells show a number, which is marked.
        reference: A sweep on all domains that rows are compared with.

    Returns:
        The page, which names no address outside itself.

    Raises:
        UserError: A package that it needs is not installed.
    """
    check_packages()
    from jinja2 import Environment, PackageLoader, StrictUndefined  # only inside functions, as the module says

    report = document.marked(tables.build(results.results, selectors, partial))
    shown = subjects(results, report)
    loader = PackageLoader("dgbench.report", "page")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"printable": lambda text: printable(str(text)), "printable_lines": printable_lines}
    figures = {
        dataset: [_figure(drawing, number) for drawing in drawings]
        for number, (dataset, drawings) in enumerate(gallery(results, shown, selectors[0]))
    }
    known = {(subject.dataset, subject.table.selector.name): subject.statistics for subject in shown}
    datasets = results.results.datasets
    curves = (curve for dataset in datasets for curve in read_curves(results.results, dataset, every_fold=True))
    values = {
        "names": [str(folder) for folder in results.parts],
        "version": __version__,
        "style": _read(STYLE),
        "script": _read(SCRIPT),
        "figures": figures,
        "set_names": {dataset: dataset or ALL_DATASETS for dataset in figures},
        "runs": _json(runs.listed_runs(results, curves)),
        **_overview(results, report),
        "compared": reference is not None,
        "tables": content.shown_tables(results.results, report, reference, known),
    }
    return environment.get_template(TEMPLATE).render(values) + "\n"


def write_figures(results: SweepResults, selectors: Sequence[Selector], folder: Path) -> Iterator[Path]:
    """Write each figure of a sweep as PDF, SVG and PNG, and yield the paths.

    Args:
        results: The sweep, complete or not.
        selectors: The selectors; figures of one table show the first.
        folder: The folder, which is made if it isn't there.
    """
    check_packages()
    shown = subjects(results, tables.build(results.results, selectors))
    yield from write_drawings((one for _, found in gallery(results, shown, selectors[0]) for one in found), folder)


def write_drawings(drawings: Iterable[Drawing], folder: Path) -> Iterator[Path]:
    """Write figures as PDF, SVG and PNG, and yield the paths.

    Args:
        drawings: The figures.
        folder: The folder, which is made if it isn't there.
    """
    import matplotlib  # only inside functions, as the module says

    folder.mkdir(parents=True, exist_ok=True)
    for drawing in drawings:
        figure, name = drawing.render().figure, f"{drawing.dataset or 'all'}-{drawing.name}"
        for suffix in SUFFIXES:
            path = folder / f"{re.sub(_UNSAFE, '-', name)}{suffix}"
            with matplotlib.rc_context(SETTINGS):
                figure.savefig(path, metadata=None if suffix == ".png" else _UNDATED[suffix])
            yield path


_UNSAFE = r"[^\w.-]+"
"""Characters of a data set's name that file names shall not have."""
_UNDATED: dict[str, dict[str, None]] = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}
"""Suffix -> metadata without the date, so that equal figures are equal files."""


def check_packages() -> None:
    """Raise UserError if a package is missing that reports need."""
    try:
        import jinja2  # noqa: F401  (only inside functions, as the module says)
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UserError(f"a report needs the package {error.name}: pip install 'dgbench[report]'") from error


def _figure(drawing: Drawing, number: int) -> dict[str, Any]:
    """Return a figure as the template takes it."""
    from markupsafe import Markup  # comes with jinja2

    name = f"figure-{number}-{drawing.name}"
    rendered, of = drawing.render(), f", {drawing.dataset}" if drawing.dataset else ""
    image = svg.to_inline(rendered.figure, name, f"{drawing.title}{of}. {drawing.caption}", rendered.tips)
    return {
        "id": name,
        "title": drawing.title,
        "caption": drawing.caption,
        "svg": Markup(image),
        "wide": rendered.figure.get_figwidth() > 6,
    }


def _overview(results: SweepResults, report: Report) -> dict[str, Any]:
    """Return the values of the template for the overview."""
    states = content.count_states(results.runs)
    problems = content.problems(results.runs)
    return {
        "states": states,
        "total": sum(states.values()),
        "datasets": list(results.results.datasets),
        "progress": content.progress(results),
        "problems": problems[: content.MOST_PROBLEMS],
        "more_problems": max(0, len(problems) - content.MOST_PROBLEMS),
        "warnings": report.warnings,
        "facts": content.provenance(report.tables),
        "networks": report.networks,
        "labels": {table.selector.name: table.selector.label for table in report.tables},
        "notes": [*report.absent, *report.notes],
    }


def _read(name: str) -> Any:
    """Return a file of this package, to be put into the page as it is."""
    from markupsafe import Markup  # comes with jinja2

    return Markup((Path(__file__).parent / name).read_text(encoding="utf-8"))


def _json(value: Any) -> Any:
    """Return JSON that may stand in a script element: no `<` in it ends the element."""
    from markupsafe import Markup  # comes with jinja2

    return Markup(orjson.dumps(value).decode().replace("<", "\\u003c"))
