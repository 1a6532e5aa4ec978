"""Write the kept predictions of chosen models on the held-out domains as csv, an example a line.

dgbench predictions runs/mine --row ERM --test sketch
dgbench predictions runs/mine --row ERM --selector oracle --trial 0 --output errors.csv

The sweep must have been launched with --save_predictions. In each trial, the mean over domains of the share of lines
whose predicted class is the label is the accuracy that `dgbench collect` averages.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import astuple
from pathlib import Path
from typing import Any

from dgbench import cli
from dgbench.core.errors import Problems, UserError
from dgbench.core.wording import printable, unknown_name
from dgbench.report.folders import combine, open_each
from dgbench.report.predictions.examples import find_examples, read_examples
from dgbench.report.predictions.listing import COLUMNS, Lacking, Line, list_predictions
from dgbench.report.results import Results
from dgbench.report.selectors import ALL_SELECTORS, default_selectors, selectors


def parser() -> cli.Parser:
    """Declare the flags of the command."""
    found = cli.Parser(prog="dgbench predictions", doc=__doc__)
    found.add_folder("input_dir", "folders of sweeps", several=True)
    found.add_argument("--row", nargs="+", default=[], metavar="NAME", help="these rows (default: all)")
    found.add_argument("--datasets", nargs="+", default=[], metavar="NAME", help="these data sets (default: all)")
    found.add_argument("--test", nargs="+", default=[], metavar="DOMAIN", help="these held-out domains (default: all)")
    found.add_argument("--trial", nargs="+", type=int, default=[], metavar="N", help="these trials (default: all)")
    found.add_argument(
        "--selector", metavar="NAME", help=f"one of {', '.join(ALL_SELECTORS)}; default: collect's first"
    )
    found.add_argument(
        "--examples", type=Path, metavar="FILE", help="only examples that FILE lists, as in dgbench collect --examples"
    )
    found.add_argument("-o", "--output", type=Path, metavar="FILE", help="write there instead of printing")
    return found


def main(argv: Sequence[str]) -> int:
    """Write the predictions; return 0.

    Raises:
        UserError: Names are wrong, or no choice has kept predictions.
    """
    args, problems = parser().parse_args(argv), Problems()
    with problems.collecting():
        named = selectors([args.selector] if args.selector else [])
    with problems.collecting():
        results = combine(open_each(args.input_dir))
        for problem in _unknown_names(args, results):
            problems.add(problem)
    if args.examples:
        with problems.collecting():
            read_examples(args.examples)
    if args.output and not args.output.parent.is_dir():
        problems.add(f"--output {args.output}: there is no folder {args.output.parent}")
    problems.raise_if_any()
    (selector, *_) = named or default_selectors(results)
    found = list_predictions(results, selector, args.row, args.datasets, args.test, args.trial)
    if args.examples:
        listed = find_examples(args.examples, ((results, name) for name in args.datasets or results.datasets))
        found = (one for one in found if isinstance(one, Lacking) or one.example in listed.examples)
    _write(found, args.output)
    return 0


def _unknown_names(args: Any, results: Results) -> Iterator[str]:
    """Yield a message for each name that the sweep doesn't have."""
    domains = dict.fromkeys(domain for fold in results.folds for domain in fold.held_out)
    trials = dict.fromkeys(str(trial) for spots in results.candidates.values() for _, trial in spots)
    known = (
        ("--row", "row", args.row, results.rows),
        ("--datasets", "data set", args.datasets, results.datasets),
        ("--test", "held-out domain", args.test, domains),
        ("--trial", "trial", map(str, args.trial), trials),
    )
    for flag, noun, names, there in known:
        yield from (f"{flag}: {unknown_name(noun, name, there)}" for name in names if name not in there)


def _write(found: Iterator[Line | Lacking], output: Path | None) -> None:
    """Write lines as csv, and choices without any to standard error; raise `UserError` if no choice has one."""
    lacking: list[str] = []
    lines = _lines(found, lacking)
    first = next(lines, None)
    if first is None:
        raise UserError(*(lacking or ["the sweep has no choice of these names"]))
    with output.open("w", newline="") if output else nullcontext(sys.stdout) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerow(astuple(first))
        writer.writerows(map(astuple, lines))
    for problem in lacking:
        print(f"left out: {printable(problem)}", file=sys.stderr)


def _lines(found: Iterator[Line | Lacking], lacking: list[str]) -> Iterator[Line]:
    """Yield the lines; add a message to `lacking` for all else."""
    for one in found:
        if isinstance(one, Line):
            yield one
        else:
            lacking.append(f"{one.what}: {one.why}")


if __name__ == "__main__":
    sys.exit(cli.run(main))
