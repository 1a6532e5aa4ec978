"""Execute runs of a launched sweep on this machine, beside any number of other workers.

    dgbench worker runs/mine
    dgbench worker runs/mine --idle 0 --stop_after 3h50m
    dgbench worker runs/mine --once

A worker claims runs that no process executes, also those that a later launch adds, until none is left or its time is
over. It takes the sweep as it was launched, asks nothing, and changes nothing but runs, so that a scheduler can start
it on each machine that sees the folder. At a signal its runs save their state and may be claimed again. The exit code
tells the scheduler whether to start another:

    0    nothing is left to do: each run is done, or was not to be claimed for --idle seconds
    1    nothing is left to do, and runs have failed
    2    wrong input
    69   the device, the folder or the data can't be used on this machine
    70   --max_failures runs failed in a row
    75   stopped, with work left
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from dgbench import cli
from dgbench.core.errors import Problems, UserError
from dgbench.core.machine import check_gpus
from dgbench.core.wording import parse_duration, printable_lines, shorten
from dgbench.flags import add_options
from dgbench.launchers.base import UNAVAILABLE, Slot, Terms
from dgbench.launchers.interrupts import Interrupts
from dgbench.launchers.prepare import reopen
from dgbench.launchers.reconcile import Sweep
from dgbench.launchers.sharing import choose_slots
from dgbench.launchers.values import jobs_of, leaving_of, places_of
from dgbench.plan.declaration import FILE as DECLARATION
from dgbench.plan.declaration import read_site
from dgbench.plan.options import WORKER
from dgbench.plan.planfile import FILE as PLAN
from dgbench.plan.planfile import read_plan

_RESERVE = 30.0
"""Seconds before the end of a Slurm job, beside the time of grace, at which a worker stops by itself."""


def parser() -> cli.Parser:
    """Declare the flags."""
    made = cli.Parser(prog="dgbench worker", doc=__doc__)
    made.add_folder("output_dir", "the folder of a sweep that was launched")
    add_options(made, WORKER)
    return made


def main(argv: Sequence[str]) -> int:
    """Work on a sweep; return the exit code."""
    args = parser().parse_args(argv)
    problems = Problems()
    options, places, terms = dict[str, Any](), dict[str, Any](), Terms()
    with problems.collecting():
        options = jobs_of(vars(args))
    with problems.collecting():
        terms = _terms(grace=args.grace, **leaving_of(vars(args)))
    with problems.collecting():
        places = places_of(vars(args))
    with problems.collecting():
        read_site(args.output_dir)
        read_plan(args.output_dir)
    problems.raise_if_any()
    with Interrupts() as interrupts:
        try:
            return _work(args.output_dir, places, options, terms, interrupts)
        except UserError as error:
            return _unavailable(*error.problems)
        except OSError as error:
            return _unavailable(f"{error.filename or args.output_dir} can't be used: {error.strerror or error}")


def _work(root: Path, places: dict[str, Any], options: dict[str, Any], terms: Terms, interrupts: Interrupts) -> int:
    """Execute runs of a sweep's plan, then of the plans that later launches make of it; return the exit code."""
    from dgbench.launchers.local import KeptServer  # imports multiprocessing, which refusals do without

    plan = Replanning(root)
    slots: list[Slot] = []
    with closing(KeptServer()) as kept:
        while True:
            sweep = _reopen(root, places).with_ttl(options["ttl"])
            plan.take(run.id for run in sweep.plan.runs)
            if not slots:
                slots, line = choose_slots(sweep, options["jobs"], options["jobs_per_gpu"])
                if line:
                    print(line, flush=True)
                check_gpus(sorted({slot.gpu for slot in slots if slot.gpu}))
            code = sweep.execute(
                slots,
                interrupts,
                grace=options["grace"],
                terms=replace(terms, replanned=plan.has_more),
                first=_place(len(sweep.plan.runs)),
                kept=kept,
            )
            if interrupts.name or terms.once or code not in (0, 1) or not plan.has_more():
                return code


class Replanning:
    """The plan in a sweep's folder, to which later launches may add runs while a worker executes those that it knows.

    Two files are looked at, at the cost of their dates: `plan.json` names the runs, and `sweep.json`, which a launch
    writes after it, says how they are made.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._known: set[str] = set()
        self._marks, self._more = self._look(), False

    def take(self, ids: Iterable[str]) -> None:
        """Note the runs that are planned from the files as they are now."""
        self._known, self._more = set(ids), False

    def has_more(self) -> bool:
        """Return whether the plan has runs that `take` was not given; reads it only if a file has changed."""
        marks = self._look()
        if marks != self._marks:
            try:
                self._more = not self._known.issuperset(run.id for run in read_plan(self._root).runs)
            except UserError:  # damaged: the runs that are known are executed all the same
                return self._more
            self._marks = marks
        return self._more

    def _look(self) -> list[tuple[int, int, int]]:
        """Return inode, date and size of both files; of a file that is gone, zeros."""
        return [_mark(self._root / name) for name in (PLAN, DECLARATION)]


def _mark(path: Path) -> tuple[int, int, int]:
    try:
        status = path.stat()
    except FileNotFoundError:
        return 0, 0, 0
    return status.st_ino, status.st_mtime_ns, status.st_size


def _reopen(root: Path, places: dict[str, Any]) -> Sweep:
    """Plan the sweep of a folder again; raise `UserError` if this version plans other runs than the folder holds."""
    sweep = reopen(root, **places)
    planned = {run.id for run in read_plan(root).runs}
    if not planned.issuperset(run.id for run in sweep.plan.runs):
        raise UserError(f"{root} was planned by another version of dgbench: launch it with this one first")
    return sweep


def _terms(*, idle: float, once: bool, max_failures: int, stop_after: str | None, grace: float) -> Terms:
    """Read the conditions under which the worker leaves; raise `UserError` if a duration is malformed."""
    until = [float("inf")]
    if stop_after is not None:
        try:
            until.append(time.monotonic() + parse_duration(stop_after))
        except ValueError as error:
            raise UserError(f"--stop_after {error}") from None
    if end := os.environ.get("SLURM_JOB_END_TIME", "").strip():
        left = float(end) - time.time() if end.isdecimal() else float("inf")
        until.append(time.monotonic() + left - grace - _RESERVE)
    return Terms(idle, once, max_failures, min(until))


def _place(runs: int) -> int:
    """Return the place in the plan at which this process begins, so that workers begin at different ones."""
    name = f"{platform.node()} {os.getpid()}"
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % max(1, runs)


def _unavailable(*problems: str) -> int:
    """Print the problems of this machine; return the exit code that asks for another one."""
    for problem in problems:
        print(f"dgbench: error: {printable_lines(shorten(problem))}", file=sys.stderr)
    return UNAVAILABLE


if __name__ == "__main__":
    sys.exit(cli.run(main))
