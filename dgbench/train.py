"""One run by hand, in this process: what it logs is what there is to see.

    python -m dgbench.train --algorithm VREx --dataset RotatedDigits --test 75

The output folder is a sweep of one run: `collect` reads it, the same command resumes it, another one adds to it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dgbench import cli, collect, select
from dgbench.cards import DatasetCard
from dgbench.catalogue import Catalogue
from dgbench.errors import UserError
from dgbench.flags import add_device, add_setting, asked_of, site_of
from dgbench.launchers.base import TAKEN, Slot
from dgbench.launchers.slots import usable_cores
from dgbench.names import parse_row
from dgbench.protocol import FixedSplit
from dgbench.reconcile import Sweep, prepare
from dgbench.store import State


def parser() -> cli.Parser:
    """The flags of the command."""
    found = cli.Parser(prog="dgbench train", description=__doc__.partition("\n")[0])
    found.add_argument("--algorithm", required=True, metavar="NAME", help="ALGORITHM[+AVERAGE][+ADAPTER]")
    found.add_argument(
        "--dataset", required=True, metavar="NAME", help="a name, folder:/path, or csv:/path/to/file.csv"
    )
    found.add_argument("--test", nargs="+", required=True, metavar="DOMAIN", help="held-out domains, by name or number")
    found.add_argument("--hparams_seed", type=int, default=0, help="which draw of hyperparameters (0: the defaults)")
    found.add_argument("--trial_seed", type=int, default=0, help="which split and initial weights (0)")
    add_setting(found)
    add_device(found)
    found.add_argument("--threads", type=int, metavar="N", help="threads (default: one a core)")
    found.add_argument("--output_dir", type=Path, default=Path("train_output"), help="(default: train_output)")
    return found


def main(argv: Sequence[str]) -> int:
    """Train, then print what validation picks; returns 0, or 1 if the run failed."""
    args = parser().parse_args(argv)
    catalogue = Catalogue(args.include or ())
    if parse_row(args.algorithm, catalogue).merger:
        raise UserError(f"{args.algorithm!r} merges several runs: `dgbench sweep launch` makes them")
    seeds = {
        "n_hparams_from": args.hparams_seed,
        "n_hparams": args.hparams_seed + 1,
        "n_trials_from": args.trial_seed,
        "n_trials": args.trial_seed + 1,
    }
    fold = _fold(args.test, catalogue.get("dataset", args.dataset.partition(":")[0]).card)
    asked = {**asked_of(args), **fold, **seeds, "algorithms": [args.algorithm], "datasets": [args.dataset]}
    sweep = prepare(args.output_dir, asked, site_of(args), catalogue)
    sweep.fetch()
    sweep.write()
    if not _execute(sweep, args.threads or usable_cores()):
        return 1
    own = sweep.declaration.protocol == FixedSplit.name
    selector = select.ValidationDomain.name if own else select.TrainingDomain.name
    return collect.main(["--input_dir", str(args.output_dir), "--selector", selector])


def _fold(held_out: Sequence[str], card: DatasetCard) -> dict[str, Any]:
    """What asks for the fold, as a sweep file would."""
    if card.parts:
        return {"test_envs": held_out}
    return {"test_envs": held_out, "single_test_envs": True} if len(held_out) == 1 else {"test_domains": held_out}


def _execute(sweep: Sweep, threads: int) -> bool:
    """Execute what is not done in this process; whether all is done then."""
    from dgbench.execute import run_job

    for run in sweep.plan.runs:
        folder = sweep.store.folder(run.id)
        if folder.state(retries=0) is not State.DONE:
            folder.create(run)
            code = run_job(sweep.job(run, Slot(index=0, gpu=None, threads=threads)))
            if code == TAKEN:
                print(f"another process executes {run.name}: try again when it has ended", file=sys.stderr)
            if code != 0:
                return False
    return True


if __name__ == "__main__":
    sys.exit(cli.run(main))
