"""Train one run in this process, as `dgbench train` does, and return its table, curve and results."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass, replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dgbench.api.classes import IncludedClasses
from dgbench.api.options import in_words_of_python, read_options, with_options
from dgbench.api.own_data import OwnData
from dgbench.api.process import undisturbed
from dgbench.catalogue.catalogue import Catalogue
from dgbench.catalogue.rows import parse_row
from dgbench.catalogue.sources import split_datasets
from dgbench.core.errors import UserError
from dgbench.core.machine import usable_cores
from dgbench.core.wording import unknown_name
from dgbench.launchers.one_run import PLACE, Outcome, display, execute_here, plan_one, print_plan, unfinished_runs
from dgbench.launchers.reconcile import Sweep
from dgbench.plan.declaration import read_site
from dgbench.plan.options import OPTIONS, TRAIN
from dgbench.report.frames import SweepResults, load_results
from dgbench.report.record_frames import held_out_name
from dgbench.report.render import text
from dgbench.report.selectors import default_selectors
from dgbench.report.tables import build
from dgbench.store.lease import INPUT_DAMAGED, STOPPED, TAKEN

if TYPE_CHECKING:
    import pandas as pd

    from dgbench.models.ready import Answers, Inputs, ReadyModel


class RunFailed(RuntimeError):
    """A run that ended in an error. The message has the error, its traceback, and the run's folder."""


def train(
    algorithm: str | type,
    dataset: str | type | OwnData,
    *,
    test: str | int | Sequence[str | int] = (),
    output_dir: str | PathLike[str] | None = None,
    quiet: bool = False,
    **options: Any,
) -> Trained:
    """Train one run in this process, or read it if it is done.

    The same arguments again give the same folder: a run that was interrupted goes on, a finished one is not repeated.
    Ctrl-C lets the run save its state, and raises KeyboardInterrupt.

    Args:
        algorithm: The row, `ALGORITHM[+RULE][+AVERAGE][+ADAPTER]`; or a class, such as one that a notebook defines.
        dataset: Name of the data set; `folder:PATH` or `csv:PATH` for one's own; what `from_dataset` returned; or a
            class.
        test: Held-out domains, by name or number; one, or several.
        output_dir: The sweep's folder that the run is part of; None: one of its own in `train_output`.
        quiet: Show warnings alone, neither a bar nor a log.
        **options: The flags of `dgbench train` under their names (`steps=300, backbone="resnet18"`), any field of
            `Setting`, `hparams={"lr": 1e-3}`, and `set={"SWAD.n_converge": 3}`. `include` takes classes too, for rows
            such as `"Mine+SWAD"`.

    Raises:
        UserError: With everything that is wrong, before anything is written.
        RunFailed: The run ended in an error. The same call tries it again.
    """
    with in_words_of_python(), redirect_stdout(sys.stderr):
        root = Path(output_dir) if output_dir is not None else None
        classes = IncludedClasses(root or PLACE, apart=root is None)
        row, data, given = classes.named(algorithm), classes.named(dataset), classes.options(options)
        with classes.written():
            values = read_options({**given, "test": test}, {**TRAIN, "": (_TEST,)})
            held_out = values.pop("test", [])
            sweep = plan_one(row, data, held_out, root, values)
        print_plan(sweep, quiet=True)
        sweep.ensure_inputs()
        with undisturbed() if unfinished_runs(sweep) else nullcontext():
            outcome = execute_here(sweep, values.get("threads") or usable_cores(), display(quiet=quiet))
    _raise_unless_done(sweep, outcome)
    return Trained(
        sweep.root,
        parse_row(row, sweep.catalogue).name,
        _held_out(sweep, data, held_out),
        values.get("trial_seed", 0),
        values.get("hparams_seed", 0),
    )


_TEST = replace(OPTIONS["test_envs"], name="test")
with_options(train, TRAIN)


def _raise_unless_done(sweep: Sweep, outcome: Outcome) -> None:
    code, run = outcome
    if code == STOPPED:
        raise KeyboardInterrupt(f"the run in {sweep.root} saved its state; the same call goes on with it")
    if not run:
        return
    if code == TAKEN:
        raise RunFailed(f"another process executes {run.name}: try again when it has ended")
    if code == INPUT_DAMAGED:
        raise RunFailed(f"what {run.name} reads was damaged and is made again by the same call")
    folder = sweep.store.folder(run.id)
    raise RunFailed(f"{folder.reason()}\n\n{folder.failures()[-1].get('traceback', '')}\n{run.name}, in {folder.path}")


def _held_out(sweep: Sweep, dataset: str, words: Sequence[str]) -> str:
    """Return the name that frames have for the fold of held-out domains; empty if no domains were named."""
    (name,) = split_datasets([dataset], sweep.catalogue)
    domains = sweep.plan.datasets[name].domains
    named = {word if word in domains else domains[int(word)] for word in words}
    return held_out_name([domain for domain in domains if domain in named])


@dataclass(frozen=True)
class Trained:
    """A finished run in its folder; shown as the table that `dgbench train` prints."""

    folder: Path
    """The output folder, a sweep that all commands read."""
    row: str
    """Name of the row in tables."""
    held_out: str
    """The held-out domains, several joined by `+`; empty if none were named."""
    trial: int
    """Number of the trial."""
    hparams_seed: int
    """Seed of the hyperparameters' draw; 0: the defaults."""

    def __repr__(self) -> str:
        results = self.results.results
        return text(build(results, default_selectors(results)[:1])) + f"output folder: {self.folder}"

    @cached_property
    def results(self) -> SweepResults:
        """The results of the whole folder, as `load_results` reads them."""
        return load_results(self.folder)

    @property
    def table(self) -> pd.DataFrame:
        """The cells of the folder's table under the first selector; see `SweepResults.table`."""
        return self.results.table()

    @cached_property
    def model(self) -> ReadyModel:
        """The chosen model, on the CPU, ready to predict; kept by `dgbench.train(..., save_models=True)`.

        Raises:
            UserError: Its weights were not kept, or it has none; the message has the reason.
        """
        from dgbench.execute.kept import load_kept_model  # imports torch, which results do without

        picks = self.results.picks()
        (pick,) = picks[self._own(picks)].to_dict("records")
        site = read_site(self.folder)
        return load_kept_model(self.folder, pick["run"], site, pick["predictor"], catalogue=Catalogue(site.include))

    def predict(self, images: Inputs) -> Answers:
        """Predict images, as paths, PIL images or arrays; see `ReadyModel.predict`."""
        return self.model.predict(images)

    def _own(self, frame: pd.DataFrame) -> pd.Series:
        """Return which lines of a frame are of this run and row."""
        found = (frame["row"] == self.row) & (frame["trial"] == self.trial)
        found &= frame["hparams_seed"] == self.hparams_seed
        return found & (frame["held_out"] == self.held_out) if self.held_out else found

    def curve(self, metric: str | None = None) -> pd.DataFrame:
        """Return the course of a metric over the run, as in `result.curve().plot()`.

        Args:
            metric: Its name among those recorded, such as `loss`; None: the data set's own.

        Returns:
            A line for each evaluation, by `step` (the index), and a column of float64 for each evaluated view,
            `DOMAIN/PART`, those of held-out domains first.

        Raises:
            UserError: No such metric was recorded.
        """
        records = self.results.records
        own = records[self._own(records)]
        names = list(own["metric"].cat.categories)
        if metric is not None and metric not in names:
            raise UserError(unknown_name("metric", metric, names))
        own = own[own["metric"] == (metric or names[0])]
        views = own["domain"].astype(str) + "/" + own["part"].astype(str)
        tested = ~own["domain"].isin(self.held_out.split("+"))
        order = list(dict.fromkeys(views[tested.sort_values(kind="stable").index]))
        return own.assign(view=views).pivot_table(index="step", columns="view", values="value", sort=False)[order]
