"""Print the tables of sweeps, finished or not, made by dgbench or by DomainBed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import get_args

from dgbench import cli
from dgbench.core.errors import Problems, UserError
from dgbench.core.wording import printable, unknown_name
from dgbench.plan import planfile
from dgbench.report import domainbed
from dgbench.report.render import FORMATS
from dgbench.report.results import Results, read_results
from dgbench.report.select import SELECTORS, default_selectors, selectors
from dgbench.report.tables import Columns, build
from dgbench.store.files import write_atomic

_JOINED: Mapping[str, Callable[[str, str], str]] = {
    "text": lambda folder, tables: f"======== {printable(folder)}\n{tables}",
    "markdown": lambda folder, tables: f"## {printable(folder)}\n\n{tables}",
}
"""Format -> how the tables of one of several folders are headed, for the formats that can hold several."""


def open_results(root: Path) -> Results:
    """Read the results in a sweep's folder, dgbench's or DomainBed's; raise `UserError` if it is neither."""
    if not root.is_dir():
        raise UserError(f"--input_dir {root}: there is no such folder")
    if (root / planfile.FILE).exists():
        return read_results(root)
    if domainbed.is_sweep(root):
        return domainbed.read_sweep(root)
    raise UserError(
        f"--input_dir {root} holds no sweep: neither a {planfile.FILE} nor folders with {domainbed.RECORDS} in them"
    )


def parser() -> cli.Parser:
    """Declare the flags of the command."""
    found = cli.Parser(prog="dgbench collect", description=__doc__)
    found.add_folder("input_dir", "folders of sweeps, dgbench's or DomainBed's", several=True)
    found.add_argument("--format", default="text", help=f"one of {', '.join(FORMATS)}; default: text")
    found.add_argument("--selector", nargs="+", default=[], metavar="NAME", help=f"some of {', '.join(SELECTORS)}")
    found.add_argument(
        "--columns",
        choices=get_args(Columns),
        default="domain",
        help="of folds with several test domains: each domain and their mean (domain, the default), or the mean (fold)",
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
    if args.output and not args.output.parent.is_dir():
        problems.add(f"--output {args.output}: there is no folder {args.output.parent}")
    if len(args.input_dir) > 1 and args.format not in _JOINED:
        problems.add(f"--format {args.format} holds one sweep: collect {len(args.input_dir)} folders one by one")
    found = []
    for folder in args.input_dir:
        with problems.collecting():
            found.append(open_results(folder))
    problems.raise_if_any()
    reports = [build(results, chosen or default_selectors(results), args.partial, args.columns) for results in found]
    warnings = dict.fromkeys(warning for report in reports for warning in report.warnings)
    if args.strict and warnings:
        ways = "make them anew alike, put them into folders of their own, or leave out --strict"
        raise UserError(*warnings, f"--strict: runs of one table were made differently: {ways}")
    parts = [FORMATS[args.format](report) for report in reports]
    if len(parts) > 1:
        parts = [_JOINED[args.format](str(folder), part) for folder, part in zip(args.input_dir, parts, strict=True)]
    content = "\n".join(parts)
    if args.output:
        write_atomic(args.output, content.encode())
        print(f"wrote {args.output}")
    else:
        sys.stdout.write(content)
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
