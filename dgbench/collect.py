"""Print the tables of sweeps, finished or not, made by dgbench or by DomainBed.

dgbench collect runs/mine
dgbench collect runs/mine runs/theirs --selector training-domain
dgbench collect runs/mine --format latex --output table.tex
dgbench collect runs/mine --beside published --cost
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from dgbench import cli
from dgbench.core.errors import Problems, UserError
from dgbench.core.wording import unknown_name
from dgbench.report.choice import of_datasets, restrict
from dgbench.report.comparison import statistics_sections
from dgbench.report.cost import ALL, by_members, cost_sections, costs
from dgbench.report.differences import BASELINE, with_coverage, with_differences
from dgbench.report.errors import KINDS, STANDARD, WILDS, default_kind, with_errors
from dgbench.report.folders import combine, open_each
from dgbench.report.latex import NOTES, latex
from dgbench.report.members import check_members, member_sections
from dgbench.report.predictions.chosen import metrics_of
from dgbench.report.predictions.examples import find_examples, read_examples
from dgbench.report.predictions.metrics import METRICS
from dgbench.report.predictions.section import metric_sections, places
from dgbench.report.render import FORMATS
from dgbench.report.results import Results
from dgbench.report.select import Selector
from dgbench.report.selectors import ALL_SELECTORS, default_selectors, selectors
from dgbench.report.sensitivity import check_grid, sensitivity_sections
from dgbench.report.tables import Columns, Report, Section, build
from dgbench.report.tidy import FIELDS, as_csv, signature, write_parquet
from dgbench.report.whole import whole_domains
from dgbench.store.files import write_atomic

_WITH_STATISTICS = ("text", "markdown", "latex", "json")
"""Formats that have a place for statistics."""

PARQUET = "parquet"
_FORMATS = (*FORMATS, PARQUET)
_TIDY = ("csv", PARQUET)
"""Formats that have a row for each trial, and their signature in a file beside."""


def parser() -> cli.Parser:
    """Declare the flags of the command."""
    found = cli.Parser(prog="dgbench collect", doc=__doc__)
    found.add_folder("input_dir", "folders of sweeps, dgbench's or DomainBed's; several make one table", several=True)
    found.add_argument("--format", default="text", help=f"one of {', '.join(_FORMATS)}; default: text")
    found.add_argument("--selector", nargs="+", default=[], metavar="NAME", help=f"some of {', '.join(ALL_SELECTORS)}")
    found.add_argument("--output", type=Path, metavar="FILE", help="write there instead of printing")
    _add_contents(found)
    found.add_argument(
        "--strict", action="store_true", help="refuse runs that were made differently: arguments, data, code"
    )
    found.add_argument(
        "--partial", action="store_true", help="show numbers of incomplete cells too, each marked with *"
    )
    _add_form(found)
    return found


def _add_contents(found: cli.Parser) -> None:
    """Declare the flags on the numbers: what they are of, and errors, comparisons, metrics and cost beside them."""
    found.add_argument(
        "--report",
        choices=["in", "full"],
        default="in",
        help="the score on the part in of test domains (the default), or on whole domains, in and out, as some papers",
    )
    found.add_argument(
        "--beside",
        choices=["published"],
        help="set published numbers of a like protocol beside these, and say why others are left out",
    )
    found.add_argument(
        "--error", choices=KINDS, help=f"what +/- is (default: {STANDARD}; {WILDS} for data with fixed splits)"
    )
    found.add_argument(
        "--reference",
        metavar="ROW",
        help=f"the row that others are compared with, within trials (default: {BASELINE}, or else the first)",
    )
    found.add_argument(
        "--statistics",
        action="store_true",
        help="for each data set also: intervals, tests, what was searched and lost; "
        f"in formats {', '.join(_WITH_STATISTICS)}",
    )
    found.add_argument(
        "--metrics",
        nargs="+",
        default=[],
        metavar="NAME",
        help=f"further tables, from kept predictions: some of {', '.join(METRICS)}",
    )
    found.add_argument(
        "--examples",
        type=Path,
        metavar="FILE",
        help="from kept predictions: accuracy on the examples that FILE lists, a path a line or a csv with a column "
        "path, and on all others",
    )
    found.add_argument(
        "--members",
        nargs="*",
        type=int,
        metavar="N",
        help="also rows merged from N of their runs (none: every N), of a sweep that was launched with --members",
    )
    found.add_argument(
        "--sensitivity",
        action="store_true",
        help="also each method over the values that rows name, of a sweep that was launched with --grid",
    )
    found.add_argument(
        "--cost",
        action="store_true",
        help=f"also time, speed and memory of the runs behind each row; in formats {', '.join(_WITH_STATISTICS)}",
    )


def _add_form(found: cli.Parser) -> None:
    """Declare the flags on the part of the tables that is shown, and on LaTeX."""
    shown = found.group("what is shown")
    shown.add_argument("--datasets", nargs="+", default=[], metavar="NAME", help="these, and averages over them")
    shown.add_argument("--rows", nargs="+", default=[], metavar="NAME", help="these rows; * stands for any letters")
    shown.add_argument(
        "--columns",
        nargs="+",
        default=[],
        metavar="NAME",
        help="these columns (of csv and parquet: of the file); and for folds with several test domains: each domain "
        "and their mean (domain, the default), or the mean alone (fold); delta is the column of differences",
    )
    shown.add_argument("--sort", default="", metavar="COLUMN", help="rows from the highest number in a column down")
    written = found.group("LaTeX")
    written.add_argument("--notes", choices=NOTES, default="short", help="what stands below a table; default: short")
    written.add_argument("--standalone", action="store_true", help="a document, not a fragment to be included")


def main(argv: Sequence[str]) -> int:
    """Print or write the tables; return 0 also for an incomplete sweep."""
    args, problems = parser().parse_args(argv), Problems()
    with problems.collecting():
        chosen = selectors(args.selector)
    with problems.collecting():
        metrics_of(args.metrics)
    if args.examples:
        with problems.collecting():
            read_examples(args.examples)
    for problem in _contradictions(args):
        problems.add(problem)
    parts = {}
    with problems.collecting():
        parts = open_each(args.input_dir)
    problems.raise_if_any()
    report = _report(args, combine(parts), chosen, parts)
    if args.strict and report.warnings:
        ways = "make them anew alike, put them into folders of their own, or leave out --strict"
        raise UserError(*report.warnings, f"--strict: runs of one table were made differently: {ways}")
    _write(report, args)
    return 0


def _contradictions(args: Any) -> Iterator[str]:
    """Yield a message for each flag that can't be met, alone or beside the others."""
    if args.format not in _FORMATS:
        yield unknown_name("format", args.format, _FORMATS)
    for flag in ("statistics", "beside", "metrics", "examples", "reference", "sensitivity", "cost"):
        if getattr(args, flag) and args.format not in _WITH_STATISTICS:
            yield f"--{flag} goes with --format {', '.join(_WITH_STATISTICS)}, not {args.format}"
    if args.members is not None and args.format not in _WITH_STATISTICS:
        yield f"--members goes with --format {', '.join(_WITH_STATISTICS)}, not {args.format}"
    if args.members is not None and len(args.input_dir) > 1:
        yield "--members shows the runs of one folder"
    if args.output and not args.output.parent.is_dir():
        yield f"--output {args.output}: there is no folder {args.output.parent}"
    if args.format == PARQUET and not args.output:
        yield "--format parquet is written to a file: name it by --output"
    if args.format in _TIDY:
        yield from _unknown_fields(args)


def _layout(args: Any) -> tuple[Columns, list[str]]:
    """Split the values of --columns into how folds with several test domains show, and names of columns."""
    ways = [word for word in args.columns if word in get_args(Columns)]
    names = [word for word in args.columns if word not in ways]
    return (ways[-1] if ways else "domain"), names


def _unknown_fields(args: Any) -> list[str]:
    """Return a message for each name of --columns and --sort that tidy files have no column of."""
    named = [("--columns", name) for name in _layout(args)[1]] + ([("--sort", args.sort)] if args.sort else [])
    return [f"{flag}: {unknown_name('column', name, FIELDS)}" for flag, name in named if name not in FIELDS]


def _report(args: Any, results: Results, chosen: Sequence[Selector], parts: Mapping[str, Results]) -> Report:
    """Build the report by the flags; `parts` are the results of each folder."""
    results = of_datasets(results, args.datasets)
    if args.members is not None:
        check_members(results, args.members)
    results = whole_domains(results) if args.report == "full" else results
    layout, names = _layout(args)
    kind = args.error or (STANDARD if args.format == "domainbed" else default_kind(results))
    built = build(results, chosen or default_selectors(results), args.partial, layout, once=kind == WILDS)
    whole = with_errors(built, kind)
    if args.format in _TIDY:
        return restrict(whole, args.rows)
    if args.format in _WITH_STATISTICS:
        whole = with_differences(whole, args.reference)
        whole = with_coverage(whole, results.ddof) if kind == STANDARD else whole
    report = restrict(whole, args.rows, names, args.sort)
    # Sections are about whole rows, whichever columns are shown.
    sections = _sections(args, restrict(whole, args.rows), results, parts, chosen)
    return replace(report, sections=tuple(sections))


def _sections(
    args: Any, report: Report, results: Results, parts: Mapping[str, Results], chosen: Sequence[Selector]
) -> Iterator[Section]:
    """Yield the sections below the tables that the flags name, about the rows that the report has."""
    if args.members is not None:
        rows = [row for table in report.tables for row in table.rows]
        yield from member_sections(results, chosen or default_selectors(results), rows, args.members)
    if args.sensitivity:
        check_grid(report)
        yield from sensitivity_sections(report, results.ddof)
    if args.statistics:
        yield from statistics_sections(report, args.reference)
    if args.metrics or args.examples:
        listed = find_examples(args.examples, places(report.tables)) if args.examples else None
        yield from metric_sections(report, metrics_of(args.metrics), listed, args.partial)
    if args.cost:
        shown = {row for table in report.tables for row in table.rows}
        lines = (ALL, *shown, *map(by_members, shown))
        yield from cost_sections([line for line in costs(results, parts) if line.row in lines])
    if args.beside:
        # Imported on demand: TOML files are read only if asked for.
        from dgbench.report.published import beside, read_blocks

        yield from beside(report, results, read_blocks())


def _write(report: Report, args: Any) -> None:
    """Print a report, or write its file; tidy files have their signature in a file beside."""
    if args.format == PARQUET:
        write_parquet(report, args.output, _layout(args)[1], args.sort)
    else:
        content = _text(report, args)
        if not args.output:
            sys.stdout.write(content)
            return
        write_atomic(args.output, content.encode())
    print(f"wrote {args.output}")
    if args.format in _TIDY:
        beside = args.output.with_suffix(".signature.json")
        write_atomic(beside, signature(report))
        print(f"wrote {beside}")


def _text(report: Report, args: Any) -> str:
    """Format a report as text, by those flags that the format has."""
    if args.format == "latex":
        return latex(report, args.notes, standalone=args.standalone)
    if args.format == "csv":
        return as_csv(report, _layout(args)[1], args.sort)
    return FORMATS[args.format](report)


if __name__ == "__main__":
    sys.exit(cli.run(main))
