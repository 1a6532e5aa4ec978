"""Train one run in this process, logging to standard error, and print its table.

    dgbench train --algorithm VREx --dataset RotatedDigits --test 75
    dgbench train --algorithm SAM+SWAD --dataset folder:/data/birds --test sketch --backbone resnet18 --steps 500
    dgbench train --include mine.py --algorithm Mine --dataset RotatedDigits --test 75 --set lr=1e-3

The output folder is a sweep of one run: `collect` reads it, the same command resumes it. Without `--output_dir`, each
command has a folder of its own; in a folder that is named, another command adds to it.

Each evaluation is a line with the losses and the validation score; a terminal shows a bar with the time that is left.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from dgbench import cli
from dgbench.catalogue.catalogue import Catalogue
from dgbench.catalogue.rows import parse_row
from dgbench.core.errors import Problems
from dgbench.core.machine import open_device, usable_cores
from dgbench.core.progress import NO_DISPLAY, TrainingDisplay, shown_training
from dgbench.core.site import READING, Site
from dgbench.core.wording import printable
from dgbench.flags import add_options, asked_of, run_of, site_of
from dgbench.launchers.base import Slot
from dgbench.launchers.prepare import prepare
from dgbench.launchers.reconcile import Sweep
from dgbench.plan.options import OPTIONS, TRAIN
from dgbench.report.reader import read_results
from dgbench.report.render import text
from dgbench.report.selectors import default_selectors
from dgbench.report.tables import build
from dgbench.store.lease import INPUT_DAMAGED, TAKEN, Stopped
from dgbench.store.run_folder import State

PLACE = Path("train_output")
"""Folder that holds those of commands without `--output_dir`."""


def parser() -> cli.Parser:
    """Declare the flags of the command."""
    found = cli.Parser(prog="dgbench train", doc=__doc__)
    found.usage = "%(prog)s --algorithm NAME --dataset NAME [--test DOMAIN ...] [options]"
    which = found.group("which run")
    which.add_argument("--algorithm", required=True, metavar="NAME", help="ALGORITHM[+AVERAGE][+ADAPTER]")
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
        sweep = _sweep_of_flags(args)
        folds = dict.fromkeys(f"{', '.join(run.fold.held_out)} of {run.dataset}" for run in sweep.plan.runs)
        lines = (f"held out: {'; '.join(folds)}", f"output folder: {sweep.root}", *sweep.remarks())
        for line in lines:
            if not args.quiet or line.startswith("WARNING"):
                print(printable(line))
        sweep.ensure_inputs()
        if not _execute(sweep, args.threads or usable_cores(), quiet=args.quiet):
            return 1
    results = read_results(sweep.root)
    sys.stdout.write(text(build(results, default_selectors(results)[:1])))
    return 0


def _sweep_of_flags(args: Any) -> Sweep:
    """Plan the sweep of the one run; raise UserError with everything that is wrong with the flags."""
    catalogue, problems = Catalogue(args.include or ()), Problems()
    name, entry = args.algorithm, catalogue.of_kind("dataset").get(args.dataset.partition(":")[0])
    with problems.collecting():
        row = parse_row(name, catalogue)
        if row.merger:
            problems.add(f"{name!r} merges several runs: `dgbench sweep launch` makes them")
            name = row.algorithm  # with which the rest is checked all the same
    chosen = {"hparams_seed": 0, "trial_seed": 0}  # with which the rest is checked where they are wrong
    with problems.collecting():
        chosen = run_of(args)
    seeds = {
        "n_hparams_from": chosen["hparams_seed"],
        "n_hparams": chosen["hparams_seed"] + 1,
        "n_trials_from": chosen["trial_seed"],
        "n_trials": chosen["trial_seed"] + 1,
    }
    card = entry.card if entry else None
    if not args.test and not (card and card.parts and len(card.domains) == 1):
        among = f": of {', '.join(card.domains)}" if card and card.domains else ""
        problems.add(f"name what is held out with --test DOMAIN{among}")
    fold = _fold(args.test, own_splits=bool(card and card.parts))
    with problems.collecting():
        site = site_of(args)
        asked = {**asked_of(args), **fold, **seeds, "algorithms": [name], "datasets": [args.dataset]}
        sweep = prepare(args.output_dir or PLACE / f"{name}-{_digest(asked, site)}", asked, site, catalogue)
        sweep.slots(1, 1)  # refuses a device that this machine lacks
    problems.raise_if_any()
    return sweep


def _digest(asked: Mapping[str, Any], site: Site) -> str:
    """Hash a command's request, its included files and its way of reading data, as the name of its folder."""
    reading = {name: value for name in READING if (value := getattr(site, name))}
    said = [asked, site.include, *([reading] if reading else [])]
    # Not by orjson: paths that are no UTF-8 are refused later, with all else that is wrong.
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:8]


def _fold(held_out: Sequence[str], *, own_splits: bool) -> dict[str, Any]:
    """Return the fold by the keys of a sweep file; empty without held-out domains."""
    if not held_out:
        return {}
    if own_splits:
        return {"test_envs": held_out}
    return {"test_envs": held_out, "single_test_envs": True} if len(held_out) == 1 else {"test_domains": held_out}


def _execute(sweep: Sweep, threads: int, *, quiet: bool) -> bool:
    """Write the sweep, and execute unfinished runs in this process; return whether all are done then."""
    states = sweep.states(retries=0)
    unfinished = [run for run in sweep.plan.runs if states[run.id] is not State.DONE]
    if not unfinished:
        sweep.write()
        return True

    from dgbench.execute.job import run_job  # imports torch, which refusals do without

    open_device(sweep.site.device)
    sweep.write()
    try:
        sweep.build_caches()
    except Stopped:
        return False
    with _shown(quiet) as display:
        for run in unfinished:
            sweep.store.folder(run.id).create(run)
            code = run_job(sweep.job(run, Slot(index=0, gpu=None, threads=threads)), sweep.catalogue, display)
            if code == TAKEN:
                print(f"another process executes {run.name}: try again when it has ended", file=sys.stderr)
            if code == INPUT_DAMAGED:
                print(f"what {run.name} reads was damaged and is made again: give the command again", file=sys.stderr)
            if code != 0:
                return False
    return True


@contextmanager
def _shown(quiet: bool) -> Iterator[TrainingDisplay]:
    """Yield the display of the runs: their log and a bar below it, or warnings alone if `quiet`."""
    if not quiet:
        with shown_training() as display:
            yield display
        return
    log = logging.getLogger("dgbench")
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        yield NO_DISPLAY
    finally:
        log.setLevel(level)


if __name__ == "__main__":
    sys.exit(cli.run(main))
