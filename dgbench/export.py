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
from dgbench.core.errors import Problems, UserError
from dgbench.core.progress import shown_progress
from dgbench.core.wording import unknown_name
from dgbench.plan import planfile
from dgbench.report.domainbed.reader import is_sweep
from dgbench.report.export.formats import FORMATS


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
        _check_sweep(args.input_dir)
    problems.raise_if_any()
    assert write, "a known format"
    with shown_progress() as report:
        lines = list(write(args.input_dir, args.output_dir, report))
    print(*lines, sep="\n")
    return 0


def _check_sweep(folder: Path) -> None:
    """Raise UserError if a folder holds no sweep, dgbench's or DomainBed's."""
    if not folder.is_dir() or not ((folder / planfile.FILE).exists() or is_sweep(folder)):
        raise UserError(f"--input_dir {folder} holds no sweep: neither a {planfile.FILE} nor runs of DomainBed")


if __name__ == "__main__":
    sys.exit(cli.run(main))
