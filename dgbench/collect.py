"""Print the tables of sweeps, finished or not, made by dgbench or by DomainBed.

dgbench collect runs/mine
dgbench collect runs/mine runs/theirs --selector training-domain
dgbench collect runs/mine --format latex --output table.tex
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

from dgbench import cli
from dgbench.core.errors import Problems, UserError
from dgbench.core.wording import unknown_name
from dgbench.report.comparison import statistics_sections
from dgbench.report.folders import combine, open_each
from dgbench.report.render import FORMATS
from dgbench.report.select import SELECTORS, default_selectors, selectors
from dgbench.report.tables import Columns, build
from dgbench.store.files import write_atomic

_WITH_STATISTICS = ("text", "markdown", "json")
"""Formats that have a place for statistics."""


def parser() -> cli.Parser:
    """Declare the flags of the command."""
    found = cli.Parser(prog="dgbench collect", doc=__doc__)
    found.add_folder("input_dir", "folders of sweeps, dgbench's or DomainBed's; several make one table", several=True)
    found.add_argument("--format", default="text", help=f"one of {', '.join(FORMATS)}; default: text")
    found.add_argument("--selector", nargs="+", default=[], metavar="NAME", help=f"some of {', '.join(SELECTORS)}")
    found.add_argument(
        "--columns",
        choices=get_args(Columns),
        default="domain",
        help="of folds with several test domains: each domain and their mean (domain, the default), or the mean (fold)",
    )
    found.add_argument(
        "--beside",
        choices=["published"],
        help="set published numbers of a like protocol beside these, and say why others are left out",
    )
    found.add_argument(
        "--statistics",
        nargs="?",
        const="",
        metavar="ROW",
        help="for each data set also: intervals over trials, and differences from a row (default: the first) "
        f"within trials; in formats {', '.join(_WITH_STATISTICS)}",
    )
    found.add_argument("--output", type=Path, metavar="FILE", help="write there instead of printing")
    found.add_argument(
        "--strict", action="store_true", help="refuse runs that were made differently: arguments, data, code"
    )
    found.add_argument(
        "--partial", action="store_true", help="show numbers of incomplete cells too, each marked with *"
    )
    return found


def main(argv: Sequence[str]) -> int:
    """Print or write the tables; return 0 also for an incomplete sweep."""
    args, problems = parser().parse_args(argv), Problems()
    with problems.collecting():
        chosen = selectors(args.selector)
    if args.format not in FORMATS:
        problems.add(unknown_name("format", args.format, FORMATS))
    if args.statistics is not None and args.format not in _WITH_STATISTICS:
        problems.add(f"--statistics goes with --format {', '.join(_WITH_STATISTICS)}, not {args.format}")
    if args.output and not args.output.parent.is_dir():
        problems.add(f"--output {args.output}: there is no folder {args.output.parent}")
    parts = {}
    with problems.collecting():
        parts = open_each(args.input_dir)
    problems.raise_if_any()
    results = combine(parts)
    report = build(results, chosen or default_selectors(results), args.partial, args.columns)
    if args.beside:
        # Imported on demand: TOML files are read only if asked for.
        from dgbench.report.published import beside, read_blocks

        report = replace(report, sections=beside(report, results, read_blocks()))
    if args.statistics is not None:
        further = statistics_sections(report, results, args.statistics or None)
        report = replace(report, sections=(*further, *report.sections))
    if args.strict and report.warnings:
        ways = "make them anew alike, put them into folders of their own, or leave out --strict"
        raise UserError(*report.warnings, f"--strict: runs of one table were made differently: {ways}")
    content = FORMATS[args.format](report)
    if args.output:
        write_atomic(args.output, content.encode())
        print(f"wrote {args.output}")
    else:
        sys.stdout.write(content)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
