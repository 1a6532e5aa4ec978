"""Print the hyperparameters that a selector chose in each cell, and the commands that train the chosen runs again.

dgbench best runs/mine
dgbench best runs/mine --algorithms SAM --selector leave-one-domain-out
dgbench best runs/mine --commands > again.sh
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

import orjson

from dgbench import cli
from dgbench.core.errors import Problems
from dgbench.core.grid import columns
from dgbench.core.wording import printable, unknown_name
from dgbench.report.again import Best, best_of
from dgbench.report.folders import open_results
from dgbench.report.selectors import ALL_SELECTORS, default_selectors, selectors


def parser() -> cli.Parser:
    """Declare the flags of the command."""
    found = cli.Parser(prog="dgbench best", doc=__doc__)
    found.add_folder("input_dir", "the sweep's folder, dgbench's or DomainBed's")
    found.add_argument(
        "--selector", metavar="NAME", help=f"one of {', '.join(ALL_SELECTORS)}; default: collect's first"
    )
    found.add_argument("--algorithms", nargs="+", default=[], metavar="NAME", help="only these rows")
    found.add_argument("--datasets", nargs="+", default=[], metavar="NAME", help="only these data sets")
    found.add_argument("--trial", type=int, metavar="N", help="only this trial")
    found.add_argument("--commands", action="store_true", help="print the commands alone, a line each")
    found.add_argument("--json", action="store_true", help="print a JSON object a line, with everything")
    return found


def main(argv: Sequence[str]) -> int:
    """Print the choices; return 0 also if there is none."""
    args, problems = parser().parse_args(argv), Problems()
    with problems.collecting():
        named = selectors([args.selector] if args.selector else [])
    with problems.collecting():
        results = open_results(args.input_dir)
        for name in (name for name in args.algorithms if name not in results.rows):
            problems.add(unknown_name("row", name, results.rows))
        for name in (name for name in args.datasets if name not in results.datasets):
            problems.add(unknown_name("data set", name, results.datasets))
    problems.raise_if_any()
    (selector, *_) = named or default_selectors(results)
    found = [
        best
        for best in best_of(args.input_dir, results, selector)
        if (not args.algorithms or best.row in args.algorithms)
        and (not args.datasets or best.dataset in args.datasets)
        and args.trial in (None, best.trial)
    ]
    if args.json:
        sys.stdout.writelines(orjson.dumps(best, option=orjson.OPT_APPEND_NEWLINE).decode() for best in found)
    elif args.commands:
        sys.stdout.writelines(f"{best.command}\n" for best in found if best.command)
    else:
        print(f"chosen by {selector.name}: {selector.reads.format(metric='accuracy')}")
        print(*map(str.rstrip, columns([list(map(printable, line)) for line in _lines(found)])), sep="\n")
        print("", *_commands(found), sep="\n")
    return 0


def _lines(found: Sequence[Best]) -> Iterator[Sequence[str]]:
    """Yield the cells of the table, its header first."""
    yield "Algorithm", "Dataset", "held out", "trial", "score", "step", "seed", "hyperparameters"
    for best in found:
        pick = best.pick
        score = f"{100 * pick.score:.1f}{'' if best.complete else '*'}"
        numbers = str(best.trial), score, str(pick.step), str(pick.hparams_seed)
        shown = {name: f"{value:.4g}" if type(value) is float else value for name, value in best.hparams.items()}
        values = (f"{name} {value}" for name, value in shown.items())
        yield best.row, best.dataset, "+".join(best.held_out), *numbers, ", ".join(values)


def _commands(found: Sequence[Best]) -> Iterator[str]:
    """Yield the lines below the table: a comment for each choice, and its command."""
    if any(not best.complete for best in found):
        yield "# *: chosen among complete hyperparameter seeds alone"
    for best in found:
        where = f"{best.row} {best.dataset} [{'+'.join(best.held_out)}] trial {best.trial}"
        yield printable(f"# {where}{f': {best.why}' if best.why else ''}")
        if best.command:
            yield printable(best.command)


if __name__ == "__main__":
    sys.exit(cli.run(main))
