"""Plan the run of one method on one fold, as a sweep of its own, and execute it in this process."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from dgbench.catalogue.catalogue import Catalogue
from dgbench.catalogue.rows import parse_row
from dgbench.core.errors import Problems
from dgbench.core.machine import open_device, threads_that_sleep
from dgbench.core.progress import NO_DISPLAY, TrainingDisplay, in_notebook, shown_training
from dgbench.core.run import Run
from dgbench.core.site import READING, Site
from dgbench.core.wording import printable
from dgbench.launchers.base import Slot
from dgbench.launchers.prepare import prepare
from dgbench.launchers.reconcile import Sweep
from dgbench.launchers.values import Values, asked_of, run_of, site_of
from dgbench.plan.networks import with_full_names
from dgbench.store.lease import STOPPED, Stopped

PLACE = Path("train_output")
"""Folder that holds the output folders of runs for which none is named."""


class Outcome(NamedTuple):
    """How the execution of a sweep's runs in this process ended."""

    code: int
    """0, or what `dgbench.execute.job.run_job` returned for the run that ended it."""
    run: Run | None = None
    """That run; None if all are done, or if it was stopped before the first."""


def plan_one(algorithm: str, dataset: str, test: Sequence[str], root: Path | None, values: Values) -> Sweep:
    """Plan the sweep of one run, and of the runs that it reads; write nothing.

    Args:
        algorithm: `ALGORITHM[+RULE][+AVERAGE][+ADAPTER]`.
        dataset: Name of the data set, with its path if it has one.
        test: Held-out domains, by name or number.
        root: The output folder, which may hold other runs; None: one in `PLACE` that is named by a hash of the request.
        values: Options, by name.

    Raises:
        UserError: With everything that is wrong, as far as it can be checked.
    """
    catalogue, problems = Catalogue(values.get("include") or ()), Problems()
    name, entry = algorithm, catalogue.of_kind("dataset").get(dataset.partition(":")[0])
    with problems.collecting():
        row = parse_row(name, catalogue)
        if row.merger:
            problems.add(f"{name!r} merges several runs: `dgbench sweep launch` makes them")
            name = row.algorithm  # with which the rest is checked all the same
        if row.analysis:
            problems.add(f"{name!r} is no predictor: train {row.measured.name}, then `dgbench analyze {row.analysis}`")
            name = row.algorithm
    chosen = {"hparams_seed": 0, "trial_seed": 0}  # with which the rest is checked where they are wrong
    with problems.collecting():
        chosen |= run_of(values)
    seeds = {
        "n_hparams_from": chosen["hparams_seed"],
        "n_hparams": chosen["hparams_seed"] + 1,
        "n_trials_from": chosen["trial_seed"],
        "n_trials": chosen["trial_seed"] + 1,
    }
    card = entry.card if entry else None
    if not test and not (card and card.parts and len(card.domains) == 1):
        among = f": of {', '.join(card.domains)}" if card and card.domains else ""
        problems.add(f"name what is held out with --test DOMAIN{among}")
    fold = _fold(test, own_splits=bool(card and card.parts))
    site = Site()
    with problems.collecting():
        site = site_of(values)
    with problems.collecting():
        asked = {**asked_of(values), **fold, **seeds, "algorithms": [name], "datasets": [dataset]}
        asked = with_full_names(asked, catalogue)  # here, too: a changed network has another folder
        sweep = prepare(root or PLACE / f"{name}-{_digest(asked, site)}", asked, site, catalogue)
        sweep.slots(1, 1)  # refuses a device that this machine lacks
    problems.raise_if_any()
    return sweep


def _digest(asked: Mapping[str, Any], site: Site) -> str:
    """Hash a request, its included files and its way of reading data, as the name of its folder."""
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


def print_plan(sweep: Sweep, *, quiet: bool) -> None:
    """Print the held-out domains, the folder and the remarks of a sweep, or if `quiet` its warnings alone."""
    folds = dict.fromkeys(f"{', '.join(run.fold.held_out)} of {run.dataset}" for run in sweep.plan.runs)
    for line in (f"held out: {'; '.join(folds)}", f"output folder: {sweep.root}", *sweep.remarks()):
        if not quiet or line.startswith("WARNING"):
            print(printable(line))


def unfinished_runs(sweep: Sweep) -> list[Run]:
    """Return the runs that are not done; those that failed are tried again."""
    states = sweep.states(retries=0)
    return [run for run in sweep.plan.runs if not states[run.id].settled]


def execute_here(sweep: Sweep, threads: int, shown: AbstractContextManager[TrainingDisplay]) -> Outcome:
    """Write a sweep, and execute its unfinished runs in this process, one after the other.

    Args:
        sweep: As planned.
        threads: CPU threads for torch.
        shown: Gives the display that receives each step and evaluation; entered when the images are decoded, which has
            a bar of its own.
    """
    unfinished = unfinished_runs(sweep)
    if not unfinished:
        sweep.write()
        return Outcome(0)

    with threads_that_sleep():
        from dgbench.execute.job import run_job  # imports torch, which refusals do without

    open_device(sweep.site.device)
    sweep.write()
    try:
        sweep.build_caches()
    except Stopped:
        return Outcome(STOPPED)
    with shown as display:
        for run in unfinished:
            sweep.store.folder(run.id).create(run)
            code = run_job(sweep.job(run, Slot(index=0, gpu=None, threads=threads)), sweep.catalogue, display)
            if code != 0:
                return Outcome(code, run)
    return Outcome(0)


@contextmanager
def display(*, quiet: bool) -> Iterator[TrainingDisplay]:
    """Yield the display of trainings: their log and a bar below it, or warnings alone if `quiet`.

    A notebook shows the bar and warnings: lines of a log would fill its page.
    """
    log = logging.getLogger("dgbench")
    level = log.level
    if quiet or in_notebook():
        log.setLevel(logging.WARNING)
    try:
        with nullcontext(NO_DISPLAY) if quiet else shown_training() as bar:
            yield bar
    finally:
        log.setLevel(level)
