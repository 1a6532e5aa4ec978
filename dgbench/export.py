"""Write a sweep's finished runs in the format of another tool, or one chosen model to use elsewhere.

dgbench export runs/mine --format model --row ERM+SWAD --test photo -o model
dgbench export runs/mine --format model --row ERM+SWAD --test photo --onnx --push_to_hub me/birds -o model
dgbench export runs/mine --format tensorboard -o exported
dgbench export runs/mine --format mlflow -o exported
dgbench export runs/mine --format wandb-offline -o exported
dgbench export runs/mine --format domainbed -o exported
"""

from __future__ import annotations

import importlib.util
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dgbench import cli
from dgbench.core.errors import Problems, UserError
from dgbench.core.progress import shown_progress
from dgbench.core.wording import unknown_name
from dgbench.report.again import deploying_command
from dgbench.report.export.formats import FORMATS
from dgbench.report.export.model.choice import Chosen, Wanted, choose
from dgbench.report.export.model.folder import Forms, check_own, write_model
from dgbench.report.export.model.hub import check_repository, push
from dgbench.report.folders import check_sweep, open_results
from dgbench.report.results import Results
from dgbench.report.select import Selector
from dgbench.report.selectors import ALL_SELECTORS, default_selectors, selectors

MODEL = "model"
"""The format of one model; all others are of a whole sweep."""
_OF_MODEL = ("row", "dataset", "test", "trial", "selector", "onnx", "torch_export", "deploy", "measured", "push_to_hub")
"""Flags for `MODEL` alone."""


def parser() -> cli.Parser:
    """Declare the flags of the command."""
    found = cli.Parser(prog="dgbench export", doc=__doc__)
    found.add_folder("input_dir", "the sweep's folder")
    found.add_argument("-o", "--output_dir", type=Path, help="folder to write to: new, or empty")
    formats = "; ".join(f"{name}: {form.help}" for name, form in FORMATS.items())
    found.add_argument(
        "--format", required=True, help=f"{MODEL}: one chosen model, to use without dgbench; of all runs: {formats}"
    )
    group = found.group(f"--format {MODEL}")
    group.add_argument("--row", default="", metavar="NAME", help="the row (default: the only one)")
    group.add_argument("--dataset", default="", metavar="NAME", help="the data set (default: the only one)")
    group.add_argument("--test", nargs="+", default=[], metavar="DOMAIN", help="held-out domains of the model")
    group.add_argument("--trial", type=int, metavar="N", help="the trial (default: the best by the selector)")
    names = ", ".join(ALL_SELECTORS)
    group.add_argument("--selector", default="", metavar="NAME", help=f"one of {names}; default: collect's first")
    group.add_argument("--onnx", action="store_true", help="write ONNX too")
    group.add_argument("--torch_export", action="store_true", help="write a program of torch.export too")
    group.add_argument("--deploy", action="store_true", help="print the commands that train it on all domains instead")
    group.add_argument(
        "--measured",
        type=Path,
        metavar="DIR",
        help="of a model of all domains: sweep whose accuracy its card shows",
    )
    group.add_argument("--push_to_hub", default="", metavar="OWNER/NAME", help="upload the folder to Hugging Face")
    return found


def main(argv: Sequence[str]) -> int:
    """Write every finished predictor of every row as a run of its own, or one model; return 0."""
    args, problems = parser().parse_args(argv), Problems()
    if args.format != MODEL:
        for flag in (name for name in _OF_MODEL if getattr(args, name) not in ("", [], None, False)):
            problems.add(f"--{flag} is for --format {MODEL}")
        with problems.collecting():
            if args.format not in FORMATS:
                raise UserError(unknown_name("format", args.format, (MODEL, *FORMATS)))
            FORMATS[args.format].load(args.format)
    _check_output(args, problems)
    with problems.collecting():
        check_sweep(args.input_dir)
    if args.format == MODEL:
        return _export_model(args, problems)
    problems.raise_if_any()
    with shown_progress() as report:
        lines = list(FORMATS[args.format].load(args.format)(args.input_dir, args.output_dir, report))
    print(*lines, sep="\n")
    return 0


def _check_output(args: Any, problems: Problems) -> None:
    """Add the problems of the folder to write to."""
    target = args.output_dir
    if target is None:
        if not args.deploy:
            problems.add("--output_dir (-o) is needed: a new folder to write to")
    elif target.exists() and (not target.is_dir() or any(target.iterdir())):
        problems.add(f"--output_dir {target} holds something already: name a new folder")


def _export_model(args: Any, problems: Problems) -> int:
    """Write one model, or print the commands that train it on all domains."""
    chosen = measured = None
    with problems.collecting():
        if args.push_to_hub:
            check_repository(args.push_to_hub)
    lacking = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if args.onnx and lacking:
        problems.add(f"--onnx needs {' and '.join(lacking)}: pip install 'dgbench[onnx]'")
    with problems.collecting():
        results = open_results(args.input_dir)
        check_own(args.input_dir)
        selector = _selector(args.selector, results)
        chosen = choose(results, selector, Wanted(args.row, args.dataset, tuple(args.test), args.trial))
        measured = _measured(args.measured, chosen)
    problems.raise_if_any()
    assert chosen, "or a problem was found"
    if args.deploy:
        return _print_deploying(args, chosen)
    about = write_model(
        args.input_dir, chosen, measured or chosen, args.output_dir, Forms(args.torch_export, args.onnx)
    )
    print(f"wrote {chosen.place}, chosen by {chosen.selector.name} at step {about.step}, to {args.output_dir}")
    print(f"to use it: dgbench predict {args.output_dir} IMAGES, or python {args.output_dir}/example.py IMAGES")
    if args.push_to_hub:
        print(f"uploaded to {push(args.output_dir, args.push_to_hub)}")
    return 0


def _selector(name: str, results: Results) -> Selector:
    """Return the selector of a name, or the first one of `collect`."""
    (found, *_) = selectors([name]) if name else default_selectors(results)
    return found


def _measured(root: Path | None, chosen: Chosen) -> Chosen | None:
    """Return the choice in another sweep whose accuracy the card shows; None without one."""
    if root is None:
        return None
    fold = chosen.fold
    if not set(fold.held_out) <= set(fold.training_domains):
        raise UserError("--measured is for models that trained on all domains: this one has numbers of its own")
    results = open_results(root)
    wanted = Wanted(chosen.row, chosen.dataset, fold.held_out)
    try:
        found = choose(results, _selector(chosen.selector.name, results), wanted)
    except UserError as error:
        raise UserError(*(f"--measured {root}: {problem}" for problem in error.problems)) from None
    if set(found.fold.held_out) <= set(found.fold.training_domains):
        raise UserError(f"--measured {root}: its models trained on the tested domains too")
    return found


def _print_deploying(args: Any, chosen: Chosen) -> int:
    """Print the commands that train the chosen model on all domains and export it; raise UserError if none does."""
    command, why = deploying_command(args.input_dir, chosen.row, chosen.pick)
    if not command:
        raise UserError(f"{chosen.place} can't be trained on all domains: {why}")
    print("# trains on all domains with the chosen hyperparameters; its numbers are no measure of generalization")
    print(command)
    words = ["dgbench", "export", f"{args.input_dir}-deploy", "--format", MODEL, "--row", chosen.row]
    words += ["--measured", str(args.input_dir), "-o", str(args.output_dir or f"{args.input_dir}-model")]
    print(shlex.join(words))
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
