"""Launch sweeps, see how far they are, mend and tidy them. Everything about a sweep is in its folder.

    dgbench launch runs/quick --sweep quickstart
    dgbench status runs/quick

`launch` brings the folder to what was asked for: it starts, resumes and finishes a sweep, and without a request it goes
on with the folder's own. Launching twice is harmless; two launches at once share the work.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from dgbench import cli
from dgbench.__main__ import OF_SWEEPS
from dgbench.catalogue.catalogue import Catalogue
from dgbench.core.errors import Problems, UserError
from dgbench.core.run import Run
from dgbench.core.wording import count_nouns, printable
from dgbench.flags import add_options
from dgbench.launchers.base import STOPPED_EARLY
from dgbench.launchers.consent import agreed, agreed_to_launch, may_run_files
from dgbench.launchers.estimate import kept_bytes
from dgbench.launchers.launcher import Launcher, last_launcher
from dgbench.launchers.mend import Trouble, find_mendable, mend
from dgbench.launchers.prepare import plan_launch, reopen
from dgbench.launchers.reconcile import Sweep, go_on
from dgbench.launchers.tidy import begin_anew, incomplete, prunable, prune
from dgbench.launchers.values import asked_of, launcher_of, places_of
from dgbench.plan.cost import cost_of
from dgbench.plan.declaration import FILE, read_site
from dgbench.plan.options import EXECUTING, LAUNCH, LAUNCHER, PLACES, QUEUE
from dgbench.plan.planfile import PlannedRun, PlanTable, read_plan
from dgbench.plan.repeating import repeating
from dgbench.plan.sweep_file import merge_flags_over_file, read_sweep_file
from dgbench.report.nodes import nodes_of
from dgbench.report.overview import overview, unused_lines
from dgbench.report.picture import follow, shorten_list
from dgbench.report.repeats import read_choices
from dgbench.report.signs import exit_code, retries_of, running_lines
from dgbench.report.watch import Watch
from dgbench.store.folder import Store
from dgbench.store.state import State

_LISTED = 20
"""Most lines of a list that are printed."""
_STATES = """states of a run:
  missing   not begun
  waiting   begun and not finished, and no process executes it now
  running   a process executes it now
  paused    at a step at which --search compares it with runs that have yet to get there
  failed    ended in an error as often as --retries allows; `dgbench retry` lets it run again
  damaged   a file that results depend on has changed; `dgbench retry` makes it anew
  dropped   ended by --search where others were better: tables count it up to there
  done      finished: tables count it"""
"""What `status --help` ends with."""


def parser() -> cli.Parser:
    """Declare the flags of all subcommands."""
    top = cli.Parser(prog="dgbench sweep", doc=__doc__)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    made: dict[str, cli.Parser] = {
        name: commands.add_parser(name, prog=f"dgbench {name}", help=text, doc=_CALLS[name].__doc__)
        for name, text in OF_SWEEPS.items()
    }
    for command in made.values():
        command.add_folder("output_dir", "the sweep's folder")
    made["launch"].group("which runs").add_argument(
        "--sweep", type=Path, metavar="NAME|FILE", help="a shipped sweep, or a TOML file; flags win over it"
    )
    add_options(made["launch"], LAUNCH)
    again = made["launch"].group("which runs")
    again.add_argument(
        "--repeat_best",
        type=int,
        metavar="N",
        help="after a search: N more trials of the hyperparameters that it chose for each row (WILDS has 3, 5 or 10)",
    )
    again.add_argument(
        "--selector", metavar="NAME", help="with --repeat_best: what chooses (default: the first of `dgbench collect`)"
    )
    output = made["launch"].group("output")
    output.add_argument("--dry_run", action="store_true", help="say what would run and what it costs; write nothing")
    output.add_argument("--json", action="store_true", help="with --dry_run: one JSON object a run")
    output.add_argument(
        "--rehearse",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="make some steps of runs first, to say how long the sweep takes (default: on a terminal, if it is long)",
    )
    add_options(made["retry"], {"data": PLACES, "where runs execute": LAUNCHER, "this machine": EXECUTING})
    which = made["retry"].group("which runs may run again (default: failed and damaged ones)")
    which.add_argument("--failed", action="store_true", help="those that failed")
    which.add_argument("--stale", action="store_true", help="those that lost their machine, or are damaged")
    which.add_argument("--run", nargs="+", metavar="RUN", help="these, by ids, beginnings of ids, or names")
    made["status"].epilog = f"{made['status'].epilog}\n\n{_STATES}"
    shown = made["status"].group("output")
    shown.add_argument("--json", action="store_true", help="a JSON object a run, and one a node and line on a queue")
    shown.add_argument(
        "--watch", action="store_true", help="show each cell of the tables, again every 5 s till the end"
    )
    for name in ("status", "cancel"):
        add_options(made[name], {"where runs execute": (QUEUE,)})
    asking = {"launch": "launching", "retry": "running files", "delete_incomplete": "removing", "prune": "removing"}
    for name, doing in asking.items():
        made[name].group("output").add_argument(
            "--skip_confirmation", action="store_true", help=f"don't ask before {doing}"
        )
    return top


def main(argv: Sequence[str]) -> int:
    """Run a subcommand; return its exit code: 0, or 1 if runs failed or are missing."""
    args = parser().parse_args(argv)
    return _CALLS[args.command](args)


def _launch(args: Any) -> int:
    """Start, resume or finish a sweep; without a request, go on with that of its folder.

    dgbench launch runs/quick --sweep quickstart
    dgbench launch runs/mine --algorithms ERM SAM+SWAD ERM+T3A --datasets PACS --data_dir data --quick
    dgbench launch runs/mine --algorithms ERM --datasets folder:/data/birds --set lr=1e-4 precision=bf16 --dry_run
    dgbench launch runs/mine
    dgbench launch runs/mine --repeat_best 10 --selector training-domain
    """
    if (args.output_dir / FILE).is_file() and not may_run_files(args.output_dir, args.include or (), _asks(args)):
        return 1
    catalogue, problems = Catalogue(args.include or ()), Problems()
    asked: dict[str, Any] | None = None
    with problems.collecting():
        flags = asked_of(vars(args))
        asked = merge_flags_over_file(read_sweep_file(args.sweep), flags) if args.sweep else flags
    with problems.collecting():
        launcher = launcher_of(vars(args), (asked or {}).pop("launcher", {}))
    with problems.collecting():
        if asked is not None:
            sweep = _planned(args, asked, catalogue)
    problems.raise_if_any()
    sweep = sweep.with_ttl(launcher.ttl)
    if args.dry_run and args.json:
        _print_json(map(_describe, sweep.plan.runs))
        return 0
    print(*sweep.remarks(), *sweep.tested(), sep="\n")
    if args.dry_run:
        models, predictions = sweep.site.save_models, sweep.site.save_predictions
        cost = cost_of(sweep.plan, sweep.catalogue, save_models=models, save_predictions=predictions)
        # Their size takes an import of torch, which a plan without weights to keep does without.
        print(*cost.lines(kept_bytes(sweep, cost) if models else 0), sep="\n", flush=True)
        if sys.stdin.isatty() if args.rehearse is None else args.rehearse:
            print(*launcher.preview(sweep, rehearse=True), sep="\n")
        return 0
    launcher.check(sweep)
    rehearse = _asks(args) if args.rehearse is None else args.rehearse
    print(*launcher.preview(sweep, rehearse=rehearse), sep="\n", flush=True)
    if _asks(args) and not agreed_to_launch(sweep):
        return 1
    return execute(sweep, launcher, args.detach)


def _planned(args: Any, asked: Mapping[str, Any], catalogue: Catalogue) -> Sweep:
    """Plan the request of flags and file, or go on with the folder's own if there is none."""
    if args.repeat_best is not None or args.selector:
        return _repeated(args, asked)
    return plan_launch(args.output_dir, asked, vars(args), catalogue)


def _repeated(args: Any, asked: Mapping[str, Any]) -> Sweep:
    """Plan the sweep of the folder with further trials of the choices of its search."""
    found = read_choices(args.output_dir, args.repeat_best, args.selector, alone=not asked)
    if found.left:
        # Not on stdout, which `--dry_run --json` fills.
        print(f"not repeated, as they are merged over draws: {', '.join(map(printable, found.left))}", file=sys.stderr)
    return reopen(
        args.output_dir,
        change=lambda declaration: repeating(declaration, found.choices, found.selector, args.repeat_best),
        **places_of(vars(args)),
    )


def _retry(args: Any) -> int:
    """Let runs that failed, or whose files are damaged, run again, and launch.

    dgbench retry runs/mine
    dgbench retry runs/mine --data_dir /new/place
    dgbench retry runs/mine --failed
    dgbench retry runs/mine --run 0acb760b "ERM RotatedDigits [75] hparams 0 trial 0"
    """
    problems = Problems()
    asked: dict[Trouble, bool] = {"failed": args.failed, "damaged": args.stale, "lost": args.stale}
    troubles = [trouble for trouble, wanted in asked.items() if wanted]
    if args.run and troubles:
        problems.add("--run names the runs that may run again: leave --failed and --stale out")
    launcher, named = None, None
    with problems.collecting():
        launcher = launcher_of(vars(args), {})
    with problems.collecting():
        named = find_mendable(args.output_dir, args.run) if args.run else None
    problems.raise_if_any()
    assert launcher
    if not may_run_files(args.output_dir, args.include or (), _asks(args)):
        return 1
    sweep = reopen(args.output_dir, **places_of(vars(args))).with_ttl(launcher.ttl)
    troubles = list(asked) if named else troubles or ["failed", "damaged"]
    mended = mend(sweep, troubles, named)
    kinds = " or ".join(filter(None, (", ".join(troubles[:-1]), troubles[-1])))
    print(f"{count_nouns(mended, f'{kinds} run')} may run again")
    launcher.check(sweep)
    return execute(sweep, launcher, args.detach)


def execute(sweep: Sweep, launcher: Launcher, detach: bool = False) -> int:
    """Write a planned sweep and execute its missing runs; return the exit code of the command."""
    total = len(sweep.plan.runs)
    done = sum(state.settled for state in sweep.states().values())
    before = f"{done:,}/{total:,} done, {total - done:,} left" if done else f"preparing {count_nouns(total, 'run')}"
    print(f"{before} in {sweep.root}", flush=True)  # what follows may take a while
    sweep.ensure_inputs()
    sweep.write()
    code = launcher.execute(sweep, detach=bool(detach))
    return 1 if code == STOPPED_EARLY and sys.stdin.isatty() else code


def _asks(args: Any) -> bool:
    """Decide whether to ask before acting: on a terminal, unless the flag says not to."""
    return not args.skip_confirmation and sys.stdin.isatty()


def _print_json(lines: Iterable[Mapping[str, Any]]) -> None:
    for line in lines:
        sys.stdout.buffer.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))


def _describe(run: Run) -> dict[str, Any]:
    """Describe a run in the words of DomainBed's users."""
    return {
        "id": run.id,
        "kind": run.kind,
        "algorithm": run.method.name,
        "averages": [part.name for part in run.averages],
        "dataset": run.dataset,
        "test_domains": run.fold.held_out,
        "trial_seed": run.trial,
        "hparams_seed": run.hparams_seed,
        "hparams": run.method.hparams,
        "inputs": [source.run for source in run.inputs],
    }


def _status(args: Any) -> int:
    """Print how many runs of each method are in which state, why runs failed, and which machines are at work.

    The exit code is 0 if all runs are done, 3 if runs can be executed and no process does so, else 1.

    dgbench status runs/mine
    dgbench status runs/mine --watch
    dgbench status runs/mine --json
    """
    if args.watch:
        watch = Watch(args.output_dir)
        return 0 if follow(watch, lambda picture: _show_anew("\n".join((picture, *shorten_list(_queue(args)))))) else 1
    if args.json:
        watch = Watch(args.output_dir)
        found = watch.look(thorough=True)
        _print_json(status.to_json() for status in found)
        _print_json(node.to_json() for node in nodes_of(found).values())
        _print_json({"queue": line} for line in _queue(args))
        return exit_code(watch.table, {status.id: State(status.state) for status in found})
    table, store = read_plan(args.output_dir), Store(args.output_dir)
    survey = store.survey((run.id for run in table.runs), retries_of(args.output_dir), thorough=True)
    states = survey.states
    lines = (*overview(store, table, survey), *running_lines(store, table, states), *_queue(args))
    print(*lines, *unused_lines(store, table), sep="\n")
    return exit_code(table, states)


def _queue(args: Any) -> list[str]:
    """List the lines of a sweep's launcher on its jobs in a queue."""
    launcher = last_launcher(args.output_dir, args.launcher or ())
    return [printable(line) for line in launcher.queue(args.output_dir)] if launcher else []


def _show_anew(picture: str) -> None:
    """Print a picture: on a terminal in place of the one before, elsewhere below it."""
    print(f"\x1b[H\x1b[2J{picture}" if sys.stdout.isatty() else f"{picture}\n", flush=True)


def _cancel(args: Any) -> int:
    """Ask the processes that execute runs of a sweep, on any machine, to save and stop.

    dgbench cancel runs/mine
    """
    table, store = read_plan(args.output_dir), Store(args.output_dir)
    states = set(store.states((run.id for run in table.runs), retries=0).values())
    if all(state.settled for state in states):
        print("all runs are done: nothing is running")
        return 0
    launcher = last_launcher(args.output_dir, args.launcher or ())
    store.request_cancel()
    if launcher:
        for line in launcher.cancel(args.output_dir):
            print(printable(line))
    if State.RUNNING not in states:  # a launch may be between two runs, or before its first
        print(f"nothing is running now; a launch that is about to start runs stops; to go on: {go_on(args.output_dir)}")
        return 0
    print(f"asked: running runs save and stop within seconds; to go on: {go_on(args.output_dir)}")
    return 0


def _delete_incomplete(args: Any) -> int:
    """Remove the files of unfinished runs, so that they start anew, except runs under way.

    dgbench delete_incomplete runs/mine
    """
    names = {run.id: name for run, name in _named(read_plan(args.output_dir))}
    unfinished = incomplete(args.output_dir)
    _list("begins anew: ", (names[id] for id in unfinished))
    what = f"remove what {count_nouns(len(unfinished), 'unfinished run')} left, with checkpoints"
    if unfinished and _asks(args) and not agreed(what):
        return 1
    removed = len(begin_anew(args.output_dir, unfinished))
    print(f"from nothing next time: {count_nouns(removed, 'unfinished run')}")
    return 0


def _prune(args: Any) -> int:
    """Remove weights that no unfinished run reads, and runs that the sweep no longer asks for.

    dgbench prune runs/mine
    """
    if read_site(args.output_dir).save_models and not args.skip_confirmation:
        raise UserError(f"{args.output_dir} was launched with --save_models: say --skip_confirmation to remove them")
    found = prunable(args.output_dir)
    _list("", found.lines())
    _list("no run, and left: ", map(str, found.left))
    runs, weights = len(found.runs), len(found.weights)
    what = f"{count_nouns(runs, 'run')} that the sweep no longer asks for, and the weights of {weights:,} finished ones"
    if runs + weights and _asks(args) and not agreed(f"remove {what}"):
        return 1
    removed, freed = prune(args.output_dir, found)
    print(f"{count_nouns(removed, 'run')} removed, {freed / 1e6:,.1f} MB freed")
    return 0


def _named(table: PlanTable) -> Iterator[tuple[PlannedRun, str]]:
    return ((run, table.name(run)) for run in table.runs)


def _list(before: str, found: Iterable[str]) -> None:
    """Print the first lines of a list, each behind `before`, and the number of the others."""
    lines = list(found)
    for line in lines[:_LISTED]:
        print(f"{before}{printable(line)}")
    if len(lines) > _LISTED:
        print(f"{before}{len(lines) - _LISTED:,} more")


_CALLS: Mapping[str, Callable[[Any], int]] = {
    "launch": _launch,
    "status": _status,
    "retry": _retry,
    "cancel": _cancel,
    "delete_incomplete": _delete_incomplete,
    "prune": _prune,
}

if __name__ == "__main__":
    sys.exit(cli.run(main))
