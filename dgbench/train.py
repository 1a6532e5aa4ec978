"""Train one run in this process, logging to standard error, and print its table.

    dgbench train --algorithm VREx --dataset RotatedDigits --test 75
    dgbench train --algorithm SAM+SWAD --dataset folder:/data/birds --test sketch --backbone resnet18 --steps 500
    dgbench train --include mine.py --algorithm Mine --dataset RotatedDigits --test 75 --set lr=1e-3

The output folder is a sweep of one run: `collect` reads it, the same command resumes it. Without `--output_dir`, each
command has a folder of its own; in a folder that is named, another command adds to it.

Each evaluation is a line with the losses and the validation score; a terminal shows a bar with the time that is left.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

from dgbench import cli
from dgbench.core.machine import usable_cores
from dgbench.flags import add_options
from dgbench.launchers.one_run import PLACE, display, execute_here, plan_one, print_plan
from dgbench.plan.options import OPTIONS, TRAIN
from dgbench.report.reader import read_results
from dgbench.report.render import text
from dgbench.report.selectors import default_selectors
from dgbench.report.tables import build
from dgbench.store.lease import INPUT_DAMAGED, TAKEN


def parser() -> cli.Parser:
    """Declare the flags of the command."""
    found = cli.Parser(prog="dgbench train", doc=__doc__)
    found.usage = "%(prog)s --algorithm NAME --dataset NAME [--test DOMAIN ...] [options]"
    which = found.group("which run")
    which.add_argument("--algorithm", required=True, metavar="NAME", help="ALGORITHM[+RULE][+AVERAGE][+ADAPTER]")
    which.add_argument("--dataset", required=True, metavar="NAME", help=OPTIONS["datasets"].help)
    which.add_argument(
        "--test",
        nargs="+",
        default=(),
        metavar="DOMAIN",
        help="held-out domains, by name or number (of own splits: which)",
    )
    add_options(found, TRAIN)
    output = found.group("output")
    output.add_argument("--output_dir", type=Path, metavar="DIR", help=f"(default: one of its own in {PLACE})")
    output.add_argument("--quiet", action="store_true", help="print the table and warnings alone")
    return found


def main(argv: Sequence[str]) -> int:
    """Train, then print the table of the chosen model; return 0, or 1 if the run failed."""
    args = parser().parse_args(argv)
    with redirect_stdout(sys.stderr):
        sweep = plan_one(args.algorithm, args.dataset, args.test, args.output_dir, vars(args))
        print_plan(sweep, quiet=args.quiet)
        sweep.ensure_inputs()
        code, run = execute_here(sweep, args.threads or usable_cores(), display(quiet=args.quiet))
        if run and code == TAKEN:
            print(f"another process executes {run.name}: try again when it has ended")
        if run and code == INPUT_DAMAGED:
            print(f"what {run.name} reads was damaged and is made again: give the command again")
    if code:
        return 1
    results = read_results(sweep.root)
    sys.stdout.write(text(build(results, default_selectors(results)[:1])))
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
