"""Write the command that trains a chosen run again, from the files in its folder.

The command gives every hyperparameter as a value, so that it trains the same model after a change of defaults or of
search spaces too. A run of dgbench that is trained again in this way has the same id, unless further averages watched
the chosen run; their rows are other predictors of the same training.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dgbench.core.errors import UserError
from dgbench.core.protocol import Explicit, FixedSplit, Fold, LeaveOneDomainOut, SingleSource
from dgbench.core.row_names import words_of
from dgbench.core.run import ALL_TRIALS, ResolvedEntry, Run
from dgbench.core.site import Site
from dgbench.core.wording import format_ranges
from dgbench.plan import planfile
from dgbench.plan.declaration import asked_beside_preset, read_site
from dgbench.plan.request import Overrides
from dgbench.report.domainbed.folder import RECORDS
from dgbench.report.results import Results
from dgbench.report.run_frames import their_record
from dgbench.report.scrutiny import trials_at
from dgbench.report.select import Pick, Selector
from dgbench.store.run_folder import RunFolder
from dgbench.store.sealed import CorruptFile


@dataclass(frozen=True)
class Best:
    """The choice of a selector at one place of a row, with the way to train it again."""

    row: str
    dataset: str
    held_out: tuple[str, ...]
    trial: int
    pick: Pick
    complete: bool
    """Whether no run of those that the selector reads was lacking."""
    hparams: Mapping[str, Any]
    """Hyperparameter -> value, of the algorithm, and as `ENTRY.NAME` of the average, merger or adapter of the row."""
    command: str
    """For a shell: it trains the run, or launches all runs that a merged model is made of. Empty where none does."""
    why: str = ""
    """Why there is no command, or what else it makes; empty: it trains one run."""


def best_of(folder: Path | str, results: Results, selector: Selector) -> Iterator[Best]:
    """Yield the choices of a selector in a folder's results, in the order of the tables.

    Args:
        folder: The sweep's folder, dgbench's or DomainBed's.
        results: Its results.
        selector: The selector; data sets on which it can't answer are left out.
    """
    writer = _Writer(Path(folder)) if Path(folder, planfile.FILE).exists() else _TheirWriter(Path(folder), results)
    for dataset in results.datasets:
        for row in results.rows if not selector.unavailable(results, dataset) else ():
            for position in results.reported(dataset):
                for trial in trials_at(results, row, dataset, position):
                    outcome = selector.choose(results, row, dataset, position, trial)
                    if outcome.pick:
                        held_out = results.folds[position].held_out
                        hparams, command, why = writer.write(row, outcome.pick, trial)
                        yield Best(row, dataset, held_out, trial, outcome.pick, not outcome.gaps, hparams, command, why)


def keeping_command(root: Path, row: str, pick: Pick, trial: int) -> tuple[str, str]:
    """Return the command that trains a choice again and keeps its weights and predictions.

    Args:
        root: The sweep's folder, which is dgbench's.
        row: The row.
        pick: The choice.
        trial: Its trial.

    Returns:
        The command, empty if there is none, and then the reason.
    """
    _, command, why = _Writer(root).write(row, pick, trial)
    if not command:
        return "", why
    output = "" if " --output_dir " in command else f" --output_dir {shlex.quote(f'{root}-model')}"
    return f"{command}{output} --save_models --save_predictions", why


def deploying_command(root: Path, row: str, pick: Pick) -> tuple[str, str]:
    """Return the command that trains a choice on all domains, with its hyperparameters.

    Args:
        root: The sweep's folder, which is dgbench's.
        row: The row.
        pick: The choice.

    Returns:
        The command, empty if there is none, and then the reason.
    """
    return _Writer(root).deploying(row, pick)


class _Writer:
    """Writer of commands for runs of a folder of dgbench."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.table = planfile.read_plan(root)
        try:
            self.site = read_site(root)
        except UserError:  # tables need the plan alone, and so does all that is said of the runs
            self.site = Site()

    def write(self, row: str, pick: Pick, trial: int) -> tuple[dict[str, Any], str, str]:
        """Return the hyperparameters of a choice, the command that trains it, and why there is none."""
        try:
            run = RunFolder(self.root, pick.run).run()
            chain = list(self._chain(run))
        except (FileNotFoundError, CorruptFile) as error:
            return {}, "", str(error)
        hparams = dict(_named_hparams(row, chain))
        if trial == ALL_TRIALS or any(link.kind == "merge" for link in chain):
            return hparams, *self._launch(row, next(link for link in chain if link.kind == "merge"))
        fold = list(_fold_words(self.table.protocol, run.fold))
        if not fold:
            return hparams, "", f"`dgbench train` has no words for folds of the protocol {self.table.protocol}"
        return hparams, shlex.join(self._words(row, chain, fold)), ""

    def _launch(self, row: str, merged: Run) -> tuple[str, str]:
        """Return the command that makes a merged model again with its members in a folder of its own, and a remark."""
        try:
            members = [RunFolder(self.root, member.run).run() for member in merged.inputs]
            asked = asked_beside_preset(self.root, merged.dataset)
        except (FileNotFoundError, CorruptFile, KeyError) as error:
            return "", f"it is merged from {len(merged.inputs)} runs, and not all that made them is there: {error}"
        fold = list(_launch_fold(self.table.protocol, merged.fold))
        seeds, trials = {member.hparams_seed for member in members}, {member.trial for member in members}
        made = f"it is merged from {len(members)} runs (draws {format_ranges(seeds)})"
        if not fold or asked.draws:
            lacking = "distributions of a sweep file" if fold else f"folds of the protocol {self.table.protocol}"
            return "", f"{made}; flags have no words for {lacking}: launch the same sweep file into a new folder"
        words = ["dgbench", "launch", "--algorithms", row, "--datasets", self._dataset(merged.dataset), *fold]
        for name, numbers in (("n_hparams", seeds), ("n_trials", trials)):
            words += [f"--{name}_from", str(min(numbers)), f"--{name}", str(max(numbers) + 1)]
        words += self._setting_words(merged.dataset)
        if values := _values_of_row(row, merged, members, asked):
            words += ["--hparams", json.dumps(values)]
        words += [*self._site_words(), "--output_dir", f"{self.root}-again", "--skip_confirmation"]
        return shlex.join(words), f"{made}, which the command trains"

    def deploying(self, row: str, pick: Pick) -> tuple[str, str]:
        """Return the command that trains a choice on all domains, and why there is none."""
        if self.table.protocol == FixedSplit.name:
            return "", "the data set was published with its own splits, which say what trains"
        try:
            run = RunFolder(self.root, pick.run).run()
            members = (
                [RunFolder(self.root, source.run).run() for source in run.inputs] if run.kind == "merge" else [run]
            )
            asked = asked_beside_preset(self.root, run.dataset)
        except (FileNotFoundError, CorruptFile, KeyError) as error:
            return "", str(error)
        if run.kind == "adapt":
            return "", f"{run.method.name} adapts a model where it is used: deploy the row {row.rpartition('+')[0]}"
        if run.kind == "merge" and asked.draws:
            return "", "flags have no words for distributions of a sweep file: launch the same file with --all_domains"
        words = ["dgbench", "launch", "--algorithms", row, "--datasets", self._dataset(run.dataset), "--all_domains"]
        words += ["--test_envs", run.fold.held_out[0]]
        seeds, trials = {member.hparams_seed for member in members}, {member.trial for member in members}
        for name, numbers in (("n_hparams", seeds), ("n_trials", trials)):
            words += [f"--{name}_from", str(min(numbers)), f"--{name}", str(max(numbers) + 1)]
        words += self._setting_words(run.dataset)
        merged = run.kind == "merge"
        if values := _values_of_row(row, run, members, asked) if merged else _chosen_values(row, [run]):
            words += ["--hparams", json.dumps(values)]
        words += [*self._site_words(), "--output_dir", f"{self.root}-deploy", "--skip_confirmation"]
        return shlex.join([*words, "--save_models", "--save_predictions"]), ""

    def _chain(self, run: Run) -> Iterator[Run]:
        """Yield a run, the run that it adapts, and so on to the one that is trained or merged."""
        yield run
        if run.kind == "adapt":
            yield from self._chain(RunFolder(self.root, run.inputs[0].run).run())

    def _words(self, row: str, chain: Sequence[Run], fold: Sequence[str]) -> Iterator[str]:
        run = chain[0]
        yield from ("dgbench", "train", "--algorithm", row, "--dataset", self._dataset(run.dataset), *fold)
        yield from ("--hparams_seed", str(run.hparams_seed), "--trial_seed", str(run.trial))
        yield from self._setting_words(run.dataset)
        if values := _chosen_values(row, chain):
            yield from ("--hparams", json.dumps(values))
        yield from self._site_words()

    def _setting_words(self, dataset: str) -> Iterator[str]:
        """Yield the flags that give the setting on a data set: its preset, then each field that departs from it."""
        setting = self.table.setting_on(dataset)
        yield from ("--preset", setting.preset)
        fields = {name: value for name, value in setting.departures(dataset).items() if name != "weights"}
        written = [f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in fields.items()]
        if written:
            yield from ("--set", *written)

    def _site_words(self) -> Iterator[str]:
        """Yield the flags that say where data and files lie on this machine."""
        for name in ("data_dir", "cache_dir", "backbone_weights"):
            if value := getattr(self.site, name):
                yield from (f"--{name}", value)
        if self.site.include:
            yield from ("--include", *self.site.include)

    def _dataset(self, name: str) -> str:
        """Return the name of a data set as it is typed, with its path if it has one."""
        path = self.site.paths.get(name)
        return f"{name.partition(':')[0]}:{path}" if path else name


def _chosen_values(row: str, chain: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """Return entry -> its hyperparameters, as `--hparams` takes them, of the entries that a row stands on."""
    entries = [entry for link in chain for entry in (link.method, *link.averages)]
    names = words_of(row)
    return {entry.name: dict(entry.hparams) for entry in entries if entry.hparams and _is_of(entry, names, chain)}


def _values_of_row(row: str, merged: Run, members: Sequence[Run], asked: Overrides) -> dict[str, Any]:
    """Return the changes to hyperparameters of a sweep, as `--hparams` takes them, that a merged row's entries have."""
    entries = {*words_of(row), *(source.predictor for source in merged.inputs)}
    fixed = {name: value for name, value in asked.fixed.items() if any(name in run.method.hparams for run in members)}
    return {**fixed, **{name: own for name, own in asked.parts.items() if name in entries}}


def _is_of(entry: ResolvedEntry, names: Sequence[str], chain: Sequence[Run]) -> bool:
    """Return whether a row stands on an entry: methods do, of averages the one that it names."""
    return entry.name in names or any(entry is link.method for link in chain)


def _named_hparams(row: str, chain: Sequence[Run]) -> Iterator[tuple[str, Any]]:
    """Yield the hyperparameters that a row stands on, those of all but the algorithm by the name of their entry."""
    for link in reversed(chain):
        own = "" if link.kind == "train" else f"{link.method.name}."
        yield from ((f"{own}{name}", value) for name, value in link.method.hparams.items())
        for average in link.averages:
            # Other averages watched the same run, and are rows of their own.
            if average.name in words_of(row):
                yield from ((f"{average.name}.{name}", value) for name, value in average.hparams.items())


def _launch_fold(protocol: str, fold: Fold) -> Iterator[str]:
    """Yield the flags of `launch` for a fold; nothing where it has none."""
    if protocol in (LeaveOneDomainOut.name, FixedSplit.name):
        yield from ("--test_envs", *fold.held_out)
    if protocol == LeaveOneDomainOut.name:
        yield "--single_test_envs"


def _fold_words(protocol: str, fold: Fold) -> Iterator[str]:
    """Yield the flags of `train` for a fold; nothing where it has none."""
    spelled_out = protocol == Explicit.name and not fold.target_val
    if protocol in (LeaveOneDomainOut.name, SingleSource.name, FixedSplit.name) or spelled_out:
        yield from ("--test", *fold.held_out)


class _TheirWriter:
    """Writer of commands for runs of a folder of DomainBed."""

    def __init__(self, root: Path, results: Results) -> None:
        self.root, self.results = root, results

    def write(self, row: str, pick: Pick, trial: int) -> tuple[dict[str, Any], str, str]:
        """Return the hyperparameters of a choice, the command of DomainBed that trains it, and why there is none."""
        record = their_record(self.root / pick.run)
        if not record["args"]:
            return {}, "", f"{self.root / pick.run / RECORDS} can't be read"
        return dict(record["hparams"]), shlex.join(_their_words(record["args"], record["hparams"])), ""


def _their_words(args: Mapping[str, Any], hparams: Mapping[str, Any]) -> Iterator[str]:
    yield from ("python", "-m", "domainbed.scripts.train", "--data_dir", str(args.get("data_dir") or "DATA"))
    for name in ("algorithm", "dataset", "hparams_seed", "trial_seed", "seed", "steps", "holdout_fraction", "task"):
        if args.get(name) is not None:
            yield from (f"--{name}", str(args[name]))
    yield from ("--test_envs", *map(str, args["test_envs"]), "--hparams", json.dumps(hparams))
