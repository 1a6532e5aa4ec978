"""Write a sweep's finished runs in the format of another tool.

dgbench export runs/mine --format tensorboard -o exported
dgbench export runs/mine --format mlflow -o exported
dgbench export runs/mine --format wandb-offline -o exported
dgbench export runs/mine --format domainbed -o exported
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from dgbench import cli
from dgbench.core.errors import Problems
from dgbench.core.progress import shown_progress
from dgbench.core.wording import unknown_name
from dgbench.report.export.formats import FORMATS
from dgbench.report.folders import check_sweep


def parser() -> cli.Parser:
    """Declare the flags of the command."""
    found = cli.Parser(prog="dgbench export", doc=__doc__)
    found.add_folder("input_dir", "the sweep's folder")
    found.add_argument("-o", "--output_dir", type=Path, required=True, help="folder to write to: new, or empty")
    formats = "; ".join(f"{name}: {form.help}" for name, form in FORMATS.items())
    found.add_argument("--format", required=True, help=formats)
    return found


def main(argv: Sequence[str]) -> int:
    """Write every finished predictor of every row as a run of its own, and say how many; return 0."""
    args, problems = parser().parse_args(argv), Problems()
    write = None
    with problems.collecting():
        if args.format in FORMATS:
            write = FORMATS[args.format].load(args.format)
        else:
            problems.add(unknown_name("format", args.format, FORMATS))
    if args.output_dir.exists() and (not args.output_dir.is_dir() or any(args.output_dir.iterdir())):
        problems.add(f"--output_dir {args.output_dir} holds something already: name a new folder")
    with problems.collecting():
        check_sweep(args.input_dir)
    problems.raise_if_any()
    assert write, "a known format"
    with shown_progress() as report:
        lines = list(write(args.input_dir, args.output_dir, report))
    print(*lines, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
